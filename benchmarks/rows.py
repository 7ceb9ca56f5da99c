"""The rows of measurements: what a result file can hold. `reliability_rows` has the others.

Sizes are in the task's own unit (pairs for `kv`), K is the number of write steps.
"""

from typing import Annotated, Literal

from pydantic import Field

from benchmarks.results import Amount, Count, Row, Seconds, Share
from gradmem_core.config import BlobDtype
from training.writers import WriteSteps

Positive = Annotated[float, Field(gt=0)]
Via = Literal["HTTP", "in-process", "ready batches"]
"""Way of work to the device: through the service, through its engine alone, or as tensors that are
handed to `gradmem_core`."""


Waiting = Literal["asleep", "20,000 rounds", "300,000 rounds"]
"Way in which OpenMP's threads wait for each other: they sleep, or spin so long before they do."


class ExactMatch(Row):
    """Exact match of a writer at one context size, K and dtype of the blob (test split)."""

    measurement: Literal["exact-match"] = "exact-match"
    task: str
    writer: str
    "Kind of the writer, for instance `gradmem`, `rmt`, `full-context`."
    size: Count
    contexts: Count
    queries: Count
    "Queries for each context."
    write_steps: WriteSteps
    steps_taken: Annotated[float, Field(ge=0)]
    "Mean number of write steps over the contexts."
    blob: BlobDtype | None
    "Dtype of the blob that states went through; null where they were read as written."
    state_floats: Amount
    "Numbers kept for one context."
    state_bytes: Amount
    exact_match: Share
    "Share of the queries answered with exactly the right value, generated greedily."
    token_accuracy: Share
    "Share of the values' tokens predicted, teacher-forced."
    f1: Share | None = None
    "Mean F1 of the answers' words, where the task compares normalised answers."


class CurvePoint(Row):
    """One evaluation during a training run (selection split)."""

    measurement: Literal["training-curve"] = "training-curve"
    run: str
    "Name of the run."
    task: str
    step: Count
    "Optimizer step."
    contexts: Count
    "Contexts written by then, those of the runs that it started from included."
    seconds: Seconds
    "Wall-clock time by then, that of those runs included."
    size: Count
    write_steps: WriteSteps
    exact_match: Share


class TrainingLoss(Row):
    """Mean loss of READ over one of several equal parts of a training run."""

    measurement: Literal["training-loss"] = "training-loss"
    run: str
    task: str
    part: Count
    parts: Count
    loss: Annotated[float, Field(ge=0)]
    "Nats per target token."


class TrainingStep(Row):
    """Speed of a training step with one implementation."""

    measurement: Literal["training-step"] = "training-step"
    implementation: str
    dtype: str
    "Dtype that the backbone computed in."
    size: Count
    write_steps: Count
    contexts_per_second: Positive
    relative: Positive
    "The same in multiples of the result's first implementation, which is a straightforward one."
    peak_memory_bytes: Amount
    "Most bytes of tensors allocated at once in a step."


class Records(Row):
    """Answers of a checkpoint for records on documents of one kind, at one K (test split)."""

    measurement: Literal["records"] = "records"
    kind: Literal["shape", "pages", "list"]
    "Kind of the documents: generated of one shape, generated of several pages, real."
    name: str
    "The shape (records x longest key + longest value), the number of pages, or the list's name."
    documents: Count
    records: Count
    "Their records; each key was asked for once."
    characters: Count
    pages: Count
    write_steps: Count
    memory_floats: Count
    "Numbers of a page's memory."
    exact_match: Share
    "Share of the keys whose whole value was answered, and nothing else."
    false_rejection_rate: Share
    "Share of the keys that are there that were refused."
    absent_keys: Count
    "Keys asked for that are not there."
    rejection_recall: Share
    "Share of those that were refused."
    rejection_precision: Share | None
    "Share of all refusals that were right; null where nothing was refused."


class RecordsFailure(Row):
    """A wrong answer of a checkpoint for records."""

    measurement: Literal["records-failure"] = "records-failure"
    kind: Literal["shape", "pages", "list"]
    name: str
    write_steps: Count
    key: str
    "The query."
    expected: str | None
    "Its value; null for a key that is not in the document."
    answer: str | None
    "The answer; null for a refusal."


class Reconstruction(Row):
    """Tokens of texts of one length that memories hold, at one K (test split)."""

    measurement: Literal["reconstruction"] = "reconstruction"
    optimizer: Literal["gradient", "adam"]
    "Optimizer of WRITE: the checkpoint's own steps, or Adam at a rate of 0.02."
    query: str | None
    "Query between memory and answer; null for none."
    memory_tokens: Count
    "Vectors of a memory (m)."
    tokens: Count
    "Tokens of each text."
    texts: Count
    write_steps: Count
    recovered: Share
    "Share of the tokens that greedy decoding gives, each in its place."
    recall: Share
    "Share of the tokens predicted, teacher-forced, by the model as it writes."
    loss: Annotated[float, Field(ge=0)]
    "Reconstruction loss, nats per token."


class Questions(Row):
    """Answers to questions in words under one condition."""

    measurement: Literal["questions"] = "questions"
    section: str
    "Set of texts and questions, for instance `sentences`."
    data: str
    "Folder or file that the questions come from, and which part of it."
    condition: str
    "Input of READ, for instance `memory` or `whole text`."
    write_steps: int | None = None
    "K; null where nothing was written."
    page_tokens: int | None = None
    "Most tokens of a page; null where a text was one page."
    blob: BlobDtype | None = None
    "Dtype of the blob; null for memories as written."
    texts: Count
    pages: Annotated[float, Field(ge=0)] = 1
    "Mean number of pages of a text."
    bytes_per_page: int | None = None
    "Bytes of a page's vectors as stored."
    questions: Count
    "Questions that the texts answer."
    exact_match: Share
    "Share of them answered rightly: greedily, to the end of the line, by SQuAD's normalisation."
    f1: Share
    "Mean F1 of the words."
    forced: Share | None = None
    "Share whose first reference is predicted token by token, teacher-forced, without its end."
    false_rejection_rate: Share | None = None
    "Share of them that were refused, answers that were held back included."
    absent: int = 0
    "Questions that the texts do not answer: those of other texts, or near misses."
    rejection_recall: Share | None = None
    "Share of those that were refused."
    calibration_error: Share | None = None
    """Expected calibration error over both kinds of questions, ten bins of equal width: the
    distance of an answer's confidence from its being right, held back or not, and of that of
    `not stated` from the text's not saying."""


class ClosedPhases(Row):
    """Questions about phases of agents' work, by what is kept of them."""

    measurement: Literal["closed-phases"] = "closed-phases"
    kept: str
    "Name of what is kept of a phase, for instance `its memory`."
    phases: Count
    tokens: Count
    "Tokens of all phases, as texts."
    kept_tokens: Amount
    "Tokens that stay in the context in their place."
    question_tokens: Annotated[float, Field(ge=0)] = 0
    "Mean tokens of a call of `ask_memory` with one question, and of its result."
    stored_bytes: Amount
    "Bytes of what is kept, in the context or outside."
    questions: Count
    stated: Share | None = None
    """Share of the questions whose line is still in the context: what a perfect reader could
    answer. Null where the text is gone."""
    exact_match: Share | None = None
    "Share of them answered rightly by the checkpoint; null where it reads no texts."
    f1: Share | None = None
    false_rejection_rate: Share | None = None
    absent: Amount = 0
    "Questions about other phases."
    rejection_recall: Share | None = None
    "Share of those that were refused."


class ReadingTime(Row):
    """Seconds of one work on a page of text, beside the text's own KV cache."""

    measurement: Literal["reading-time"] = "reading-time"
    work: str
    page_tokens: Count
    write_steps: Count
    query_tokens: Count
    answer_tokens: Count
    rounds: Count
    seconds: Positive
    "Median over the rounds."
    ratio: Positive
    "To the seconds of answering from the page's own KV cache, median over the rounds."


class Load(Row):
    """Requests of workers who each send the next one when they have the answer to the last."""

    measurement: Literal["load"] = "load"
    operation: Literal["write", "read", "read alone", "read beside writers", "writers beside read"]
    run: Count
    "Number of the run; what is compared stands in one run."
    via: Via
    concurrency: Count
    "Workers; the documents of a batch for ready batches."
    pairs: Count
    "Pairs of a document."
    steps: Count | None
    "Gradient steps (K) of the writers, if any."
    seconds: Seconds
    "Length of the measured window, after the warm-up."
    throughput: Positive
    "Requests a second; one that the window's ends cut counts by its share inside."
    p50: Seconds
    "Median latency."
    p99: Seconds
    "Latency that 99 in 100 requests keep within."
    answered: Amount
    "Requests answered, the warm-up's too."
    failed: Amount
    "Requests refused or failed, the warm-up's too."
    gradient_step: Seconds | None = None
    "One gradient step of a ready batch of as many documents as there are writers."


class BreakEven(Row):
    """READ after WRITE, a KV cache and the text itself at one length, in one run.

    Times are for one document or query of a batch.
    """

    measurement: Literal["break-even"] = "break-even"
    pairs: Count
    tokens: Count
    "Tokens of a document."
    batch: Count
    "Documents at once, each with one query."
    steps: Count
    write: Seconds
    "Compress a document."
    read: Seconds
    "Answer from the memory."
    prefill: Seconds
    "Run a document through the backbone and keep its keys and values."
    cached: Seconds
    "Answer from the kept keys and values."
    reread: Seconds
    "Answer from the text, run through the backbone again."
    memory_bytes: Count
    cache_bytes: Count
    text_bytes: Count


class Efficiency(Row):
    """Floating-point operations of WRITE and of plain matrix products, in one run."""

    measurement: Literal["efficiency"] = "efficiency"
    run: Count
    batch: Count
    pairs: Count
    steps: Count
    write_flop: Count
    "Operations of the matrix products of a WRITE batch; a multiply-add counts as two."
    write: Seconds
    gemm_flop: Count
    "Operations of the plain products."
    gemm: Seconds


class Unrolled(Row):
    """Serving WRITE beside WRITE that keeps the graph of its steps, on unfused attention."""

    measurement: Literal["unrolled"] = "unrolled"
    run: Count
    batch: Count
    pairs: Count
    steps: Count
    serving: Seconds
    unrolled: Seconds
    serving_bytes: Count
    "Most bytes of tensors at once, beyond model and inputs."
    unrolled_bytes: Count


class PeakMemory(Row):
    """Memory that a serving WRITE needs."""

    measurement: Literal["peak-memory"] = "peak-memory"
    batch: Count
    pairs: Count
    steps: Count
    bytes: Count
    "Most bytes of tensors at once, beyond model and inputs."


class ReadByLength(Row):
    """READ of one query from the memory of a short and of a long document, in one run."""

    measurement: Literal["read-by-length"] = "read-by-length"
    run: Count
    short_pairs: Count
    short: Seconds
    long_pairs: Count
    long: Seconds


class Operation(Row):
    """Time of one WRITE batch that torch spent in one kind of operation itself."""

    measurement: Literal["operation"] = "operation"
    name: str
    calls: Count
    seconds: Seconds


class Overload(Row):
    """WRITE requests that come at a fixed mean rate, whoever is still waiting."""

    measurement: Literal["overload"] = "overload"
    run: Count
    pairs: Count
    steps: Count
    service_cores: Count | None
    "Cores that the service has to itself; null where that is not known."
    before: Positive
    "Requests a second of a closed loop through HTTP just before."
    after: Positive
    "And just after."
    concurrency: Count
    "Workers of these loops."
    offered: Positive
    "Requests sent a second."
    seconds: Seconds
    "Time in which requests were sent."
    sent: Amount
    succeeded: Amount
    refused: Amount
    "Answered with 429."
    failed: Amount
    "Answered with 5xx, or with anything else that is no success."
    unanswered: Amount
    "Connections that broke or timed out."
    goodput: Annotated[float, Field(ge=0)]
    "Successes a second while requests were sent, with the WRITEs of the other client."
    p50: Seconds | None
    "Median latency of the successes; null where there is none."
    p99: Seconds | None
    "Latency that 99 in 100 successes keep within."


class BesideOverload(Row):
    """Requests of another client, one at a time, while the others are an overload."""

    measurement: Literal["beside-overload"] = "beside-overload"
    run: Count
    operation: Literal["write", "read"]
    alone: Seconds
    "Median latency before the overload."
    sent: Amount
    succeeded: Amount
    refused: Amount
    "Answered with 429."
    failed: Amount
    "Answered with anything else, or not at all."
    p50: Seconds | None
    "Median latency of the successes; null where there is none."
    p99: Seconds | None
    "Latency that 99 in 100 successes keep within."


class Company(Row):
    """WRITE through HTTP beside processes that are busy with something else."""

    measurement: Literal["company"] = "company"
    run: Count
    waiting: Waiting
    device_threads: Count
    "CPU threads of the service's device."
    busy: Amount
    "Processes that are busy."
    throughput: Positive
    failed: Amount


class Footprint(Row):
    """Resident memory of the service over one WRITE, some READs and one DELETE, repeated."""

    measurement: Literal["footprint"] = "footprint"
    requests: Count
    "Requests answered by then."
    failed: Amount
    "Requests refused or failed in the whole measurement."
    bytes: Count


class StepTime(Row):
    """A batch on the service's device: one gradient step, or answers from begin to end."""

    measurement: Literal["step-time"] = "step-time"
    operation: Literal["write", "read"]
    tokens: Count
    "Tokens of a page; for READ of an answer."
    batch: Count
    "Documents or queries."
    passes: Count
    "Passes of the device: 1 for a gradient step, the tokens of an answer and its begin for READ."
    flop: Count
    "Operations of the matrix products, by `service.capacity.arithmetic`."
    seconds: Positive
    "Median over the rounds."
    processor_seconds: Positive
    "Processor time of the process meanwhile, median."


class RedisCost(Row):
    """The cost of memories of one size in an otherwise empty Redis."""

    measurement: Literal["redis-cost"] = "redis-cost"
    memories: Count
    record_bytes: Count
    "Bytes of a record."
    used_bytes: Positive
    "Growth of `used_memory` for each memory, its entries of the index included."
    value_bytes: Count
    "`MEMORY USAGE` of a memory's key."
    entries: Count
    "Entries of the index for each memory."
    entry_bytes: Positive
    "`MEMORY USAGE` of the index for each entry."
    put_seconds: Positive
    "Processor time of the server for a put."
    get_seconds: Positive
    "The same for a get."


class OpenLoad(Row):
    """WRITE requests at random times, of which some were measured and others predicted."""

    measurement: Literal["open-load"] = "open-load"
    source: Literal["measured", "simulated", "simulated with its own step times", "formula"]
    pairs: Count
    steps: Count
    capacity: Positive
    "Requests a second of a closed loop, measured."
    offered: Positive
    "Requests sent a second."
    sent: Amount
    refused: Amount
    "Answered with 429."
    failed: Amount
    "Not answered with success or 429."
    goodput: Annotated[float, Field(ge=0)]
    "Successes a second while requests were sent."
    p50: Seconds | None
    "Median latency of the successes; null where there is none."
    p99: Seconds | None
    "Latency that 99 in 100 successes keep within."

"""What `gradmem bench` measured, as one JSON file.

Times in seconds, sizes in bytes, throughput in requests a second. Every run is kept; medians and
ratios within a run are made from them by `benchmarks.report.bars` and `benchmarks.report.serving`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from benchmarks.measurement import Count, Header, Seconds, Strict
from gradmem_core.errors import InputError

Via = Literal["HTTP", "in-process", "ready batches"]
"""How work came to the device: through the service, through its engine alone, or as tensors that
are handed to `gradmem_core`."""
Amount = Annotated[int, Field(ge=0)]


class Load(Strict):
    """Requests of workers who each send the next one when they have the answer to the last."""

    via: Via
    concurrency: Count
    "Workers; the documents of a batch for ready batches."
    seconds: Seconds
    "Length of the measured window, after the warm-up."
    throughput: Annotated[float, Field(gt=0)]
    "Requests a second; one that the window's ends cut counts by its share inside."
    p50: Seconds
    "Median latency."
    p99: Seconds
    "Latency that 99 in 100 requests keep within."
    answered: Amount
    "Requests answered, the warm-up's too."
    failures: dict[str, Count]
    "Requests refused or failed, the warm-up's too: how many by the kind of error."


class WriteSection(Strict):
    """WRITE under load."""

    pairs: Count
    "Pairs of a document."
    steps: Count
    "Gradient steps (K)."
    runs: tuple[tuple[Load, ...], ...]
    "Of each run its loads."


class Mixed(Strict):
    """READ without and with writers that keep the device busy, in one run."""

    via: Via
    idle: Load
    "READ alone."
    saturated: Load
    "READ beside the writers."
    writes: Load
    "The writers meanwhile."
    step: Seconds
    "One gradient step of a ready batch of as many documents as there are writers."


class ReadSection(Strict):
    """READ under load, one query a request."""

    pairs: Count
    "Pairs of the documents behind the memories."
    steps: Count
    "Gradient steps (K) of the writers in `mixed`."
    runs: tuple[tuple[Load, ...], ...]
    "Of each run its loads."
    mixed: tuple[tuple[Mixed, ...], ...]
    "Of each run READ beside WRITE."


class ContextRow(Strict):
    """READ after WRITE, a KV cache and the text itself at one length, in one run.

    Times are for one document or query of a batch.
    """

    pairs: Count
    tokens: Count
    "Tokens of a document."
    batch: Count
    "Documents at once, each with one query."
    steps: Count
    "Gradient steps (K) of WRITE."
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


class Efficiency(Strict):
    """Floating-point operations a second of WRITE and of plain matrix products, in one run."""

    batch: Count
    pairs: Count
    steps: Count
    write_flop: Count
    "Operations of the matrix products of a WRITE batch; a multiply-add counts as two."
    write: Seconds
    gemm_flop: Count
    "Operations of the plain products."
    gemm: Seconds

    @property
    def ratio(self) -> float:
        """WRITE's operations a second in multiples of the plain products'."""
        return (self.write_flop / self.write) / (self.gemm_flop / self.gemm)


class Unrolled(Strict):
    """Serving WRITE beside WRITE that keeps the graph of its steps, on unfused attention."""

    batch: Count
    pairs: Count
    steps: Count
    serving: tuple[Seconds, ...]
    "Of each run."
    unrolled: tuple[Seconds, ...]
    "Of each run."
    serving_bytes: Count
    "Most bytes of tensors at once, beyond model and inputs."
    unrolled_bytes: Count


class Peak(Strict):
    """Memory that a serving WRITE needs."""

    batch: Count
    pairs: Count
    steps: Count
    bytes: Count
    "Most bytes of tensors at once, beyond model and inputs."


class ReadTime(Strict):
    """READ of one query from the memory of a short and of a long document, in one run."""

    short_pairs: Count
    short: Seconds
    long_pairs: Count
    long: Seconds


class Operation(Strict):
    """Time of one WRITE batch that torch spent in one kind of operation itself."""

    name: str
    calls: Count
    seconds: Seconds


class DeviceSection(Strict):
    """What the device does with its time and memory."""

    efficiency: tuple[Efficiency, ...]
    "Of each run."
    unrolled: tuple[Unrolled, ...]
    peaks: tuple[Peak, ...]
    read_times: tuple[ReadTime, ...]
    "Of each run."
    profile: tuple[Operation, ...]
    "Of one WRITE batch, the longest first."


class OverloadSection(Strict):
    """WRITE requests that come at a fixed mean rate, whoever is still waiting."""

    pairs: Count
    steps: Count
    before: Load
    "Closed-loop load through HTTP just before."
    after: Load
    "And just after."
    offered: Annotated[float, Field(gt=0)]
    "Requests sent a second."
    seconds: Seconds
    "How long requests were sent."
    sent: Amount
    succeeded: Amount
    refused: Amount
    "Answered with 429."
    failed: Amount
    "Answered with 5xx, or with anything else that is no success."
    unanswered: Amount
    "Connections that broke or timed out."
    goodput: Annotated[float, Field(ge=0)]
    "Successes a second while requests were sent."
    p50: Seconds | None
    "Median latency of the successes; null where there is none."
    p99: Seconds | None
    "Latency that 99 in 100 successes keep within."

    @property
    def capacity(self) -> float:
        """Requests a second that the service can do, by the mean of before and after."""
        return (self.before.throughput + self.after.throughput) / 2


class Footprint(Strict):
    """Resident memory of the service's process."""

    requests: Count
    "Requests answered by then."
    bytes: Count


class GrowthSection(Strict):
    """The service's memory over many requests: one WRITE, some READs and one DELETE, repeated."""

    failed: Amount
    "Requests that were refused or failed."
    footprints: tuple[Footprint, ...]


class BenchResult(Header):
    """The file."""

    kind: Literal["bench"] = "bench"
    checkpoint: str
    "Name of the checkpoint."
    fingerprint: str
    "Its fingerprint."
    notes: tuple[str, ...]
    "What was left out and why."
    write: WriteSection | None = None
    read: ReadSection | None = None
    context: tuple[ContextRow, ...] | None = None
    device: DeviceSection | None = None
    overload: OverloadSection | None = None
    growth: GrowthSection | None = None


def load_result(path: Path) -> BenchResult:
    """Read a file.

    Raises:
        InputError: It cannot be read or is no result of `gradmem bench`.
    """
    try:
        return BenchResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} is no result of gradmem bench: {place}: {first['msg']}"
        ) from error

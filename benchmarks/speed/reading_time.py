"""`gradmem-bench reading-time`: WRITE and READ of a page, beside the text's own KV cache.

Everything is timed in turn within one run, in one process with all of torch's threads, on the
longest page of a text; medians are reported.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.command import Measurement
from benchmarks.options import CheckpointName
from benchmarks.results import subject_of
from benchmarks.rows import ReadingTime
from benchmarks.timing import alternate, median_ratio
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.cache import Prefix, prefill, prefill_inputs
from gradmem_core.reading.decoding import Decoding
from gradmem_core.reading.generation import answer_queries, finish_answers
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import prepare_query
from gradmem_core.texts.paging import Page, split_text
from gradmem_core.writing.descent import write
from gradmem_core.writing.verification import make_probes
from training.writers.files import load_training

ANSWER_TOKENS = 5
"Tokens of every answer: no stop token ends one here."
PAGES = (1, 2, 4, 8, 16, 32)
TEXT = Path(__file__).parents[2] / "scripts" / "demo.md"
BASE = "answer from the KV cache of the page's text"


def measure_reading_time(
    checkpoint: CheckpointName = "prose",
    device: Annotated[str, typer.Option(help="Device, as torch names it.")] = "cpu",
    text: Annotated[
        Path, typer.Option(help="Text whose longest page is used.", show_default="scripts/demo.md")
    ] = TEXT,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per page.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 5,
) -> Measurement:
    """Time WRITE and READ beside a KV cache."""
    loaded = load_checkpoint(checkpoint, device=device)
    pages = split_text(loaded.tokenizer, text.read_text(), page_tokens=tokens, max_pages=64)
    page = max(pages, key=lambda page: len(page.ids))
    query = prepare_query(loaded, loaded.task.example_query)

    def rows() -> Iterator[ReadingTime]:
        seconds = alternate(_works(loaded, page, query, steps), rounds)
        for work, taken in seconds.items():
            yield ReadingTime(
                work=work,
                page_tokens=len(page.ids),
                write_steps=steps,
                query_tokens=len(query),
                answer_tokens=ANSWER_TOKENS,
                rounds=rounds,
                seconds=round(statistics.median(taken), 4),
                ratio=round(median_ratio(taken, seconds[BASE]), 3),
            )

    place = loaded.model.initial_memory.device
    return Measurement("speed", rows(), subject_of(loaded, load_training(checkpoint)), place)


def _works(
    checkpoint: Checkpoint, page: Page, query: list[int], steps: int
) -> dict[str, Callable[[], object]]:
    model = checkpoint.model
    ids = torch.tensor([page.ids], device=model.initial_memory.device)
    lengths = torch.tensor([len(page.ids)], device=ids.device)
    write_page = partial(write, model, ids, lengths, steps, create_graph=False)
    memory, text = write_page().memory, model.backbone.embed(ids)
    assert page.text is not None
    probes = make_probes(checkpoint, page.text, lines=page.lines)
    probe_ids = [probe.ids for probe in probes]
    sampling = [Sampling(probe.max_tokens) for probe in probes]
    works: dict[str, Callable[[], object]] = {
        f"write a page of {len(page.ids)} tokens, K = {steps}": write_page,
        f"read it back, {len(probes)} probes": partial(
            answer_queries, checkpoint, memory, probe_ids, sampling
        ),
        "prefill the page's text": partial(prefill_inputs, model.backbone, text),
        "prefill the page's memory": partial(prefill, model, memory),
        BASE: partial(_answer, checkpoint, prefill_inputs(model.backbone, text), query),
    }
    prefixes = prefill(model, memory)
    for count in PAGES:
        name = f"answer from a memory of {count} prefilled page{'s' * (count > 1)}"
        works[name] = partial(_answer, checkpoint, prefixes * count, query)
    return works


def _answer(checkpoint: Checkpoint, pages: list[Prefix], query: list[int]) -> None:
    """Answer one query with a fixed number of tokens from all pages."""
    rules = replace(ReadingRules.from_checkpoint(checkpoint), stop_ids=frozenset())
    decoding = Decoding(checkpoint.model, rules)
    finish_answers(decoding, decoding.join([pages], [query], [Sampling(ANSWER_TOKENS)]))

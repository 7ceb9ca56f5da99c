"""Seconds of WRITE and READ of texts, beside the text's own KV cache.

Everything is timed in turn within one run, in one process with all of torch's threads, on the
longest page of a text: `alternate` goes around all works, and medians are reported.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from pydantic import Field

from benchmarks.measurement import (
    Count,
    Header,
    Strict,
    alternate,
    header,
    save_result,
    this_command,
)
from benchmarks.text_results import RESULTS
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.cache import Prefix, prefill, prefill_inputs
from gradmem_core.reading.decoding import Decoding, Sampling
from gradmem_core.reading.generation import answer_queries, finish
from gradmem_core.texts.documents import Page, read_query, text_page
from gradmem_core.texts.paging import split_text
from gradmem_core.writing.descent import write
from gradmem_core.writing.verification import probes_of

ANSWER_TOKENS = 5
"Tokens of every answer: no stop token ends one here."
PAGES = (1, 2, 4, 8, 16, 32)
TEXT = Path(__file__).parents[2] / "scripts" / "demo.md"


class Timing(Strict):
    """Seconds of one work."""

    work: str
    seconds: Annotated[float, Field(gt=0)]
    "Median over the rounds."
    ratio: Annotated[float, Field(gt=0)]
    "To the seconds of answering from the page's own KV cache, median over the rounds."


class SpeedResult(Header):
    """What the command measured."""

    kind: Literal["text-speed"] = "text-speed"
    checkpoint: str
    fingerprint: str
    page_tokens: Count
    write_steps: Count
    query_tokens: Count
    answer_tokens: Count
    rounds: Count
    timings: list[Timing]


def measure(
    checkpoint: Annotated[str, typer.Option(help="Checkpoint.")] = "prose",
    device: Annotated[str, typer.Option(help="As torch names it.")] = "cpu",
    text: Annotated[Path, typer.Option(help="A text.")] = TEXT,
    tokens: Annotated[int, typer.Option(help="Most tokens of a page.")] = 64,
    steps: Annotated[int, typer.Option(help="Write steps (K).")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    output: Annotated[str | None, typer.Option(help="Name of the result file.")] = None,
) -> None:
    """Time WRITE and READ."""
    started = time.perf_counter()
    loaded = load_checkpoint(checkpoint, device=device)
    pages = split_text(loaded.tokenizer, text.read_text(), page_tokens=tokens, max_pages=64)
    page = text_page(max(pages, key=lambda one: len(one.ids)))
    query = read_query(loaded, loaded.task.example_query)
    works = _works(loaded, page, query, steps)
    seconds = alternate(works, rounds)
    base = seconds["answer from the KV cache of the page's text"]
    timings = [
        Timing(
            work=name,
            seconds=round(statistics.median(found), 4),
            ratio=round(statistics.median(a / b for a, b in zip(found, base, strict=True)), 3),
        )
        for name, found in seconds.items()
    ]
    for timing in timings:
        typer.echo(f"{timing.seconds:9.3f} s {timing.ratio:8.2f}x  {timing.work}")
    if output is None:
        return
    about = header(this_command("benchmarks.speed.reading"), seed=0, started=started)
    result = SpeedResult(
        **about.model_dump(),
        checkpoint=loaded.name,
        fingerprint=loaded.fingerprint,
        page_tokens=len(page.ids),
        write_steps=steps,
        query_tokens=len(query),
        answer_tokens=ANSWER_TOKENS,
        rounds=rounds,
        timings=timings,
    )
    save_result(RESULTS / f"{output}.json", result)


def _works(
    checkpoint: Checkpoint, page: Page, query: list[int], steps: int
) -> dict[str, Callable[[], object]]:
    model = checkpoint.model
    place = model.initial_memory.device
    ids = torch.tensor([page.ids], device=place)
    lengths = torch.tensor([len(page.ids)], device=place)
    memory = write(model, ids, lengths, steps, create_graph=False).memory
    text = model.backbone.embed(ids)
    (cache,), prefixes = prefill_inputs(model.backbone, text), prefill(model, memory)
    asked = {count: prefixes * count for count in PAGES}

    def writing() -> object:
        return write(model, ids, lengths, steps, create_graph=False)

    assert page.text is not None
    probes = probes_of(checkpoint, page.text, lines=page.lines)
    asked_back = [probe.ids for probe in probes]
    sampling = [Sampling(probe.most_tokens) for probe in probes]
    works: dict[str, Callable[[], object]] = {
        f"write a page of {len(page.ids)} tokens, K = {steps}": writing,
        f"read it back, {len(probes)} probes": lambda: answer_queries(
            checkpoint, memory, asked_back, sampling
        ),
        "prefill the page's text": lambda: prefill_inputs(model.backbone, text),
        "prefill the page's memory": lambda: prefill(model, memory),
        "answer from the KV cache of the page's text": lambda: _answer(checkpoint, [cache], query),
    }
    for count, pages in asked.items():
        name = f"answer from a memory of {count} prefilled page{'s' * (count > 1)}"
        works[name] = lambda pages=pages: _answer(checkpoint, pages, query)  # type: ignore[misc]
    return works


def _answer(checkpoint: Checkpoint, pages: list[Prefix], query: list[int]) -> None:
    """Answer one query with a fixed number of tokens from all pages."""
    rules = ReadingRules.of(checkpoint)
    decoding = Decoding(checkpoint.model, _without_stop(rules))
    finish(decoding, decoding.join([pages], [query], [Sampling(ANSWER_TOKENS)]))


def _without_stop(rules: ReadingRules) -> ReadingRules:
    return ReadingRules(
        frozenset(), rules.says_absent, rules.absent_start, rules.calibration, rules.candidates
    )


if __name__ == "__main__":
    typer.run(measure)

"""`gradmem bench`: latency and throughput of a running service."""

import asyncio
from functools import partial
from typing import Annotated

import typer
from pydantic import BaseModel

from service.client import DEFAULT_URL, AsyncClient
from service.commands.options import AsJson, Url, exit_on_client_errors
from service.commands.progress import show_progress
from service.commands.terminal import EXIT_REFUSED, fail, print_json, print_table, read_document
from service.load import LoadFigures, measure_load
from service.schemas import ModelInfo

TTL_SECONDS = 600
"Memories of a measurement that was interrupted are deleted after ten minutes."
READ_MEMORIES = 16
"Most memories that are read in turn."


class Measured(BaseModel):
    """The figures of WRITE or READ."""

    requests: int
    "Requests that were answered."
    failed: int
    "Requests that were refused, or failed."
    requests_per_second: float
    p50_ms: float
    "Latency that half of the requests keep within, in milliseconds."
    p99_ms: float
    "Latency that 99 in 100 keep within."


class ServiceFigures(BaseModel):
    """The figures of a service."""

    model: str
    concurrency: int
    "Requests under way at a time."
    seconds: float
    "Length of each measurement."
    document_tokens: int
    write: Measured
    read: Measured


def bench(
    document: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Document; the checkpoint's example by default."),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Question to ask; the checkpoint's example by default.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint to measure; the service's first by default.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 10,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure WRITE and READ of a running service.

    As many workers as --concurrency says each send the next request when the last one is answered,
    first WRITEs, then READs; each measurement warms up for a fifth of its length. The memories are
    deleted afterwards. `gradmem-bench serving` measures more, from a checkout.
    """
    text = None if document is None else read_document(document)
    with exit_on_client_errors():
        figures = asyncio.run(_measure(url, text, question, model, concurrency, seconds))
    if as_json:
        print_json(figures)
    else:
        _print_figures(figures)


async def _measure(
    url: str,
    document: str | None,
    question: str | None,
    model: str | None,
    concurrency: int,
    seconds: float,
) -> ServiceFigures:
    """Measure a service.

    Raises:
        ClientError: It cannot be reached, or answers nothing.
    """
    async with AsyncClient(url, max_retries=0) as client:
        card = _choose_model(await client.models(), model)
        text, query = document or card.example_document, question or card.example_query
        memory_ids: list[str] = []
        tokens = 0

        async def write() -> None:
            nonlocal tokens
            memory = await client.write(text, model=card.name, ttl_seconds=TTL_SECONDS)
            memory_ids.append(memory.memory_id)
            tokens = memory.info.tokens

        try:
            with show_progress(2) as report:
                report(0, "WRITE")
                written = await measure_load([write], concurrency=concurrency, seconds=seconds)
                report(1, "READ")
                memories = map(client.memory, memory_ids[:READ_MEMORIES])
                reads = [partial(memory.ask, query) for memory in memories]
                read = await measure_load(reads, concurrency=concurrency, seconds=seconds)
        finally:
            for start in range(0, len(memory_ids), 1000):
                await client.delete_many(memory_ids[start : start + 1000])
    return ServiceFigures(
        model=card.name,
        concurrency=concurrency,
        seconds=seconds,
        document_tokens=tokens,
        write=_describe(written),
        read=_describe(read),
    )


def _choose_model(models: list[ModelInfo], name: str | None) -> ModelInfo:
    for model in models:
        if name in (None, model.name):
            return model
    return fail(
        f"no model of that name is served; choose from {', '.join(each.name for each in models)}",
        EXIT_REFUSED,
    )


def _describe(figures: LoadFigures) -> Measured:
    return Measured(
        requests=figures.answered,
        failed=figures.failed,
        requests_per_second=figures.throughput,
        p50_ms=figures.p50 * 1000,
        p99_ms=figures.p99 * 1000,
    )


def _print_figures(figures: ServiceFigures) -> None:
    typer.echo(
        f"{figures.model}: documents of {figures.document_tokens} tokens,"
        f" {figures.concurrency} requests at a time, {figures.seconds:g} s each"
    )
    print_table(
        ("", "REQUESTS", "FAILED", "PER SECOND", "P50 (MS)", "P99 (MS)"),
        [
            (
                name,
                str(measured.requests),
                str(measured.failed),
                f"{measured.requests_per_second:.2f}",
                f"{measured.p50_ms:.1f}",
                f"{measured.p99_ms:.1f}",
            )
            for name, measured in (("WRITE", figures.write), ("READ", figures.read))
        ],
    )

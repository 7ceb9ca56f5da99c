"""`gradmem read` and `gradmem ask`."""

from typing import Annotated

import typer

from service.client import DEFAULT_URL
from service.commands.options import AsJson, MemoryId, Url, connect
from service.commands.terminal import exit_if_unanswered, print_answers


def read(
    memory_id: MemoryId,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY", help="Queries; put -- before the first that begins with a dash."
        ),
    ],
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Maximum length of an answer.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0, the default, takes the likeliest token; above 0, tokens are drawn."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability mass to draw from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Answers with less confidence, 0 to 1, count as not found; the checkpoint's own"
            " threshold by default.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Answer queries from a memory alone; print one answer per line, in the order of the queries.

    The line of a query that the memory does not answer is empty; the exit status is then 3.
    """
    with connect(url) as client:
        answers = client.memory(memory_id).ask_many(
            queries,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            min_confidence=min_confidence,
        )
    print_answers(answers, as_json=as_json)
    exit_if_unanswered(answers)

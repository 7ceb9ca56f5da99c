"""`gradmem read` and `gradmem ask`."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.client import DEFAULT_URL, InvalidRequest, Memory
from service.commands.options import AsJson, MemoryArgument, Url, connect
from service.commands.terminal import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNANSWERED,
    exit_if_unanswered,
    print_answers,
    print_error,
    print_json,
    print_refusal,
    read_lines,
)

PROMPT = "> "

MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="TOKENS", help="Maximum length of an answer.")
]
Temperature = Annotated[
    float | None,
    typer.Option(help="0, the default, takes the likeliest token; above 0, tokens are drawn."),
]
TopP = Annotated[float | None, typer.Option(help="Share of the probability mass to draw from.")]
Seed = Annotated[int | None, typer.Option(help="Random seed.")]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Answers with less confidence, 0 to 1, count as not found; the checkpoint's own"
        " threshold by default.",
    ),
]


def read(
    memory_id: MemoryArgument,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="Queries, or - for the lines of standard input; put -- before the first that"
            " begins with a dash.",
        ),
    ],
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    min_confidence: MinConfidence = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Answer queries from a memory alone, one answer per line.

    Answers come in the order of the queries. The line of a query that the memory does
    not answer is empty; the exit status is then 3.
    """
    asked = list(read_lines()) if queries == ["-"] else queries
    with connect(url) as client:
        answers = client.memory(memory_id).ask_many(
            asked,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            min_confidence=min_confidence,
        )
    print_answers(answers, as_json=as_json)
    exit_if_unanswered(answers)


def ask(
    memory_id: MemoryArgument,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="The question; without one, each line that you type."
        ),
    ] = None,
    min_confidence: MinConfidence = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Ask a memory a question, or one after the other.

    Without a question, each line of standard input is one, until its end; blank ones are skipped.
    In a terminal, an empty line or Ctrl-D ends it, and answers come with their confidence. The exit
    status is 2 if a question was refused, otherwise 3 if an answer was not found.
    """
    statuses = set()
    with connect(url) as client:
        memory = client.memory(memory_id)
        for line in _questions() if question is None else [question]:
            only = question is not None
            statuses.add(_answer(memory, line, min_confidence, as_json=as_json, only=only))
    for status in (EXIT_REFUSED, EXIT_UNANSWERED):
        if status in statuses:
            raise typer.Exit(status)


def _questions() -> Iterator[str]:
    """Yield the lines of standard input; in a terminal, prompt for them and end at an empty one."""
    if not sys.stdin.isatty():
        yield from read_lines()
        return
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            typer.echo()
            return
        if not line.strip():
            return
        yield line


def _answer(
    memory: Memory[Any], question: str, min_confidence: float | None, *, as_json: bool, only: bool
) -> int:
    """Print the answer to a question; return the exit status that it calls for.

    Raises:
        InvalidRequest: The question is refused, and is the only one.
    """
    try:
        answer = memory.ask(question, min_confidence=min_confidence)
    except InvalidRequest as error:
        if only:
            raise
        print_error(error)  # the next question may be better
        return EXIT_REFUSED
    if as_json:
        print_json(answer)
    elif answer and sys.stdin.isatty() and not only:
        typer.echo(f"{answer.answer}  ({answer.confidence:.0%})")
    else:
        typer.echo(answer.answer or "")
    if answer:
        return EXIT_OK
    print_refusal(answer)
    return EXIT_UNANSWERED

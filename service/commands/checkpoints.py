"""`gradmem models`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from gradmem_core.extras import requires_extra
from service.client import DEFAULT_URL
from service.commands.options import AsJson, Url, connect
from service.commands.terminal import format_card, print_json_list
from service.schemas import ModelCard


def models(
    bundled: Annotated[
        bool,
        typer.Option(
            "--bundled",
            help="List the checkpoints that come with GradMem instead; needs no service.",
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the checkpoints of the service and their purposes, the default first."""
    cards = _bundled_cards() if bundled else _served_cards(url)
    if as_json:
        print_json_list("models", cards)
    else:
        typer.echo("\n\n".join(map(format_card, cards)))


def _served_cards(url: str) -> Sequence[ModelCard]:
    with connect(url) as client:
        return client.models()


def _bundled_cards() -> Sequence[ModelCard]:
    with requires_extra("service"):
        from service.models import bundled_cards

    return bundled_cards()

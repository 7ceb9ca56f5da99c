"""The table from errors to HTTP is whole."""

import pytest

from gradmem_core.errors import (
    ContextTooLongError,
    FingerprintMismatchError,
    GradMemError,
    NonFiniteLossError,
    OverloadedError,
    UnknownCharactersError,
)
from service.errors import INTERNAL, KINDS, problem_of, response_of


def tree(root: type[GradMemError]) -> list[type[GradMemError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


@pytest.mark.parametrize("kind", tree(GradMemError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_row(kind: type[GradMemError]) -> None:
    assert kind in KINDS


def test_rows_have_names_of_their_own() -> None:
    names = [kind.type for kind in KINDS.values()]
    assert len(names) == len(set(names))
    assert all(name.startswith("urn:gradmem:problem:") for name in names)


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (ContextTooLongError("long", limit=64), {"limit": 64}),
        (UnknownCharactersError("odd", positions=[3, 6]), {"positions": [3, 6]}),
        (FingerprintMismatchError("other", expected="a", found="b"), {}),
        (NonFiniteLossError("diverged", samples=[0]), {}),
    ],
)
def test_a_problem_says_what_the_error_says(error: GradMemError, extra: dict[str, object]) -> None:
    kind = KINDS[type(error)]
    assert problem_of(error).model_dump(exclude_none=True) == {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": error.message,
        **extra,
    }


def test_whoever_is_turned_away_learns_when_to_return() -> None:
    response = response_of(problem_of(OverloadedError("full")))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.media_type == "application/problem+json"
    assert "retry-after" not in response_of(problem_of(ContextTooLongError("long"))).headers
    assert INTERNAL.status == 500

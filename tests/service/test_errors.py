"""Problems and responses of every exception."""

import copy
import json
import logging

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gradmem_core.errors import (
    ContextTooLongError,
    DeviceError,
    FingerprintMismatchError,
    GradMemError,
    NonFiniteLossError,
    OverloadedError,
    UnknownCharactersError,
)
from service.errors import PROBLEM_TYPES, problem_of, response_of
from service.refusals import BodyTooLargeError, RefusalError


def subtree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in subtree(child))]


@pytest.mark.parametrize(
    "error",
    [*subtree(GradMemError), *RefusalError.__subclasses__()],
    ids=lambda error: error.__name__,
)
def test_every_error_has_a_row(error: type[Exception]) -> None:
    assert error in PROBLEM_TYPES


@pytest.mark.parametrize(
    "error",
    [
        NonFiniteLossError("diverged", samples=[1]),
        OverloadedError("full", limit=3, retry_after=7),
        FingerprintMismatchError("other", expected="a", actual="b"),
    ],
)
def test_an_error_passes_between_processes_whole(error: GradMemError) -> None:
    duplicate = copy.deepcopy(error)  # by the methods that pickle it
    assert type(duplicate) is type(error)
    assert (duplicate.args, vars(duplicate)) == (error.args, vars(error))


def test_problem_types_have_unique_names() -> None:
    names = [problem_type.uri for problem_type in set(PROBLEM_TYPES.values())]
    assert len(names) == len(set(names)) == len(PROBLEM_TYPES) - 1  # unforeseen is internal too
    assert all(name.startswith("urn:gradmem:problem:") for name in names)


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (ContextTooLongError("long", limit=64), {"limit": 64}),
        (UnknownCharactersError("odd", positions=[3, 6]), {"positions": [3, 6]}),
        (FingerprintMismatchError("other", expected="a", actual="b"), {}),
        (NonFiniteLossError("diverged", samples=[0]), {}),
    ],
)
def test_a_problem_describes_its_error(error: GradMemError, extra: dict[str, object]) -> None:
    problem_type = PROBLEM_TYPES[type(error)]
    assert problem_of(error).model_dump(exclude_none=True) == {
        "type": problem_type.uri,
        "title": problem_type.title,
        "status": problem_type.status,
        "detail": error.message,
        **extra,
    }


def test_an_invalid_request_names_its_first_fields() -> None:
    entries = [
        {"loc": ("body", f"field\ud800{i}"), "msg": "missing", "type": "x"} for i in range(99)
    ]
    problem = problem_of(RequestValidationError(entries))
    assert (problem.status, problem.type) == (422, "urn:gradmem:problem:invalid-request")
    assert problem.detail == "body.field?0: missing"
    assert problem.errors is not None
    assert len(problem.errors) == 20
    assert problem.errors[1] == {"field": "body.field?1", "message": "missing"}


def test_a_body_too_large_names_size_limit_and_setting() -> None:
    problem = problem_of(BodyTooLargeError(size=99, limit=64))
    assert (problem.status, problem.limit) == (413, 64)
    for part in ("99 bytes", "at most 64", "GRADMEM_MAX_BODY_BYTES"):
        assert part in problem.detail


def test_errors_of_the_framework_keep_their_headers() -> None:
    response = response_of(HTTPException(405, headers={"Allow": "POST"}))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert b'"type":"about:blank"' in response.body


def test_an_unforeseen_error_is_logged_and_answered_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problem = problem_of(KeyError("a secret"))
    assert (problem.status, problem.type) == (500, "urn:gradmem:problem:internal")
    assert "a request failed with KeyError" in caplog.text
    assert "secret" not in caplog.text + problem.detail


def test_a_failure_of_the_service_is_logged_with_the_class_of_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    error = DeviceError("failed")
    error.__cause__ = RuntimeError("a secret")
    problem_of(error)
    problem_of(ContextTooLongError("long"))
    [record] = caplog.records
    assert record.getMessage() == "urn:gradmem:problem:device (cause: RuntimeError)"


def test_a_refusal_for_load_says_when_to_retry() -> None:
    response = response_of(OverloadedError("full"))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response_of(OverloadedError("full", retry_after=7)).headers["retry-after"] == "7"
    assert response.media_type == "application/problem+json"
    assert "retry-after" not in response_of(ContextTooLongError("long")).headers


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OverloadedError("full"), ("rate_limit_error", None, "overloaded")),
        (ContextTooLongError("long"), ("invalid_request_error", None, "document_too_long")),
        (KeyError("a secret"), ("server_error", None, "internal")),
        (HTTPException(404), ("invalid_request_error", None, None)),
        (
            RequestValidationError([{"loc": ("body", "n"), "msg": "wrong", "type": "x"}]),
            ("invalid_request_error", "n", "invalid_request"),
        ),
    ],
)
def test_errors_for_openais_clients_come_from_the_same_table(
    error: Exception, expected: tuple[str, str | None, str | None]
) -> None:
    response, plain = response_of(error, "/v1/models"), response_of(error)
    assert response.status_code == plain.status_code
    assert response.headers.get("retry-after") == plain.headers.get("retry-after")
    (body,) = json.loads(bytes(response.body)).values()
    assert (body["type"], body["param"], body["code"]) == expected
    assert body["message"] == json.loads(bytes(plain.body))["detail"]

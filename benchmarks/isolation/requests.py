"""The requests for a memory or a job by its id."""

from dataclasses import dataclass
from typing import NamedTuple

import httpx

NO_PAGE = "0" * 16
"An id that no page has."
UNTOLD = {"date"}
"Headers that say nothing of an answer."

MEMORY_KINDS = {
    "show": 200,
    "export": 200,
    "export with query": 200,
    "blob": 200,
    "patch": 200,
    "append": 422,  # of the default checkpoint, whose memories have one page
    "replace page": 404,
    "delete page": 404,
    "delete": 204,
    "delete many": 200,
    "read": 200,
    "chat": 200,
}
"""Operations on a memory, with the status of their answer to its owner. Of pages those are named
that it does not have."""
JOB_KINDS = {"show job": 200, "job results": 200, "cancel job": 204}
"Operations on a job, with the status of their answer to its owner."
KINDS = {**MEMORY_KINDS, **JOB_KINDS}


@dataclass(frozen=True)
class Texts:
    """The texts of the requests."""

    document: str
    query: str


class Reply(NamedTuple):
    """All that a reply says."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...]


def ask(http: httpx.Client, kind: str, item_id: str, texts: Texts, *, model: str) -> Reply:
    """Send a request for a memory or a job.

    Args:
        http: The client of the tenant who asks.
        kind: One of KINDS.
        item_id: The id of the memory or job.
        texts: What is written and asked.
        model: Name of the served checkpoint.
    """
    path, job = f"/memories/{item_id}", f"/jobs/{item_id}"
    requests: dict[str, tuple[str, str, object]] = {
        "show": ("GET", path, None),
        "export": ("GET", f"{path}/prompt-embeds", None),
        "export with query": ("POST", f"{path}/prompt-embeds", {"query": texts.query}),
        "blob": ("GET", f"{path}/blob", None),
        "patch": ("PATCH", path, {"name": "a name"}),
        "append": ("POST", "/write", {"document": texts.document, "append_to": item_id}),
        "replace page": ("PUT", f"{path}/pages/{NO_PAGE}", {"document": texts.document}),
        "delete page": ("DELETE", f"{path}/pages/{NO_PAGE}", None),
        "delete": ("DELETE", path, None),
        "delete many": ("POST", "/memories/delete", {"memory_ids": [item_id]}),
        "read": ("POST", "/read", {"memory_id": item_id, "query": texts.query}),
        "chat": (
            "POST",
            "/v1/chat/completions",
            {
                "model": f"{model}:{item_id}",
                "messages": [{"role": "user", "content": texts.query}],
            },
        ),
        "show job": ("GET", job, None),
        "job results": ("GET", f"{job}/results", None),
        "cancel job": ("DELETE", job, None),
    }
    method, target, body = requests[kind]
    response = http.request(method, target, json=body)
    headers = sorted(item for item in response.headers.items() if item[0] not in UNTOLD)
    return Reply(response.status_code, response.content, tuple(headers))

"""Random operations of several tenants, held against a model of who owns what.

The model is a dictionary of memories for each tenant. A request for a memory that the tenant does
not have in the model, whoever else has it, must be answered to the byte as one for an id that
nobody ever had.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

REQUEST_SECONDS = 120.0
NOBODYS = "0" * 32
"An id that no memory has."
NO_PAGE = "0" * 16
"An id that no page has."
AIMS = (25, 35, 30, 5, 5)
"Shares of the operations: new memories, own, foreign and deleted ones, and lists."
MAX_LIST = 1000
"Most memories of a list."
DELETED = b'{"deleted":1,"next_cursor":null}'
"Answer to the deletion of a memory among many."
MARK = "owner"
"Name of the metadata that says whose memory it is."
SAME_REQUEST = {
    "X-Request-ID": "isolation",
    "traceparent": "00-00000000000000000000000000000001-0000000000000001-00",
}
"The ids of every request, which answers repeat."
UNTOLD = {"date"}
"Headers that say nothing of an answer."


@dataclass(frozen=True)
class Texts:
    """The texts of the requests."""

    document: str
    query: str


@dataclass
class Findings:
    """Counts of requests, and of answers that differ from the model's."""

    operations: int = 0
    foreign: int = 0
    "Requests for the memory of another tenant."
    leaked: int = 0
    "Those that were answered otherwise than for an id that nobody has."
    lost: int = 0
    "Requests for an own memory that were not answered as the model says."
    revived: int = 0
    "Requests for a deleted memory that were answered otherwise than for an id that nobody has."


@dataclass
class Tenant:
    """A tenant in the model."""

    name: str
    http: httpx.Client
    owned: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


Answer = tuple[int, bytes, tuple[tuple[str, str], ...]]


class Walk:
    """A random walk through the operations of tenants.

    Args:
        url: Base URL of the service.
        keys: A key that may write, by the name of its tenant.
        texts: What is written and asked.
        seed: Seed of the walk.
    """

    def __init__(self, url: str, keys: dict[str, str], texts: Texts, *, seed: int) -> None:
        self.findings = Findings()
        self._texts = texts
        self._random = random.Random(seed)  # noqa: S311
        self._tenants = [
            Tenant(
                name,
                httpx.Client(
                    base_url=url,
                    headers={"Authorization": f"Bearer {key}", **SAME_REQUEST},
                    timeout=REQUEST_SECONDS,
                    trust_env=False,
                ),
            )
            for name, key in keys.items()
        ]
        self._model = self._tenants[0].http.get("/models").json()["models"][0]["name"]
        self._missing = {kind: self._ask(self._tenants[0], kind, NOBODYS) for kind in KINDS}

    def close(self) -> None:
        """Close the connections."""
        for tenant in self._tenants:
            tenant.http.close()

    def step(self) -> None:
        """Carry out an operation, and compare its answer with the model."""
        self.findings.operations += 1
        tenant = self._random.choice(self._tenants)
        aim = self._random.choices(("new", "own", "foreign", "deleted", "list"), AIMS)[0]
        if aim == "list":
            self._list(tenant)
            return
        targets = self._targets(tenant, aim)
        if aim == "new" or not targets:
            self._write(tenant)
            return
        memory_id, kind = self._random.choice(targets), self._random.choice(KINDS)
        answer = self._ask(tenant, kind, memory_id)
        if memory_id in tenant.owned:
            self._check_own(tenant, kind, memory_id, answer)
            return
        wrong = answer != self._missing[kind]
        if aim == "foreign":
            self.findings.foreign += 1
            self.findings.leaked += wrong
        else:
            self.findings.revived += wrong

    def finish(self) -> None:
        """Look for every memory of the model as its owner, and as the next tenant."""
        for tenant, other in zip(self._tenants, self._tenants[1:] + self._tenants[:1], strict=True):
            for memory_id in tenant.owned:
                self._check_own(tenant, "show", memory_id, self._ask(tenant, "show", memory_id))
                self.findings.foreign += 1
                answer = self._ask(other, "show", memory_id)
                self.findings.leaked += answer != self._missing["show"]
            for memory_id in tenant.deleted:
                answer = self._ask(tenant, "show", memory_id)
                self.findings.revived += answer != self._missing["show"]

    def _targets(self, tenant: Tenant, aim: str) -> Sequence[str]:
        if aim == "own":
            return sorted(tenant.owned)
        if aim == "deleted":
            return sorted(tenant.deleted)
        others = [other for other in self._tenants if other is not tenant]
        return sorted(self._random.choice(others).owned)

    def _write(self, tenant: Tenant) -> None:
        body = {
            "document": self._texts.document,
            "steps": 1,
            "verify": False,
            "metadata": {MARK: tenant.name},
        }
        response = tenant.http.post("/write", json=body)
        if response.status_code == 201:
            tenant.owned.add(response.json()["memory_id"])
        else:
            self.findings.lost += 1

    def _list(self, tenant: Tenant) -> None:
        """List the memories of a tenant, all or those marked as a tenant's."""
        owner = self._random.choice([None, *self._tenants])
        query: dict[str, str | int] = {"limit": MAX_LIST}
        if owner is not None:
            query["metadata"] = f"{MARK}={owner.name}"
        expected = tenant.owned if owner in (None, tenant) else set()
        response = tenant.http.get("/memories", params=query)
        if response.status_code != 200:
            self.findings.lost += 1
            return
        listed = {memory["memory_id"] for memory in response.json()["memories"]}
        self.findings.foreign += 1
        self.findings.leaked += bool(listed - tenant.owned - tenant.deleted)
        self.findings.revived += bool(listed & tenant.deleted)
        self.findings.lost += len(listed) < MAX_LIST and bool(expected - listed)

    def _check_own(self, tenant: Tenant, kind: str, memory_id: str, answer: Answer) -> None:
        status, content, _ = answer
        right = status == KINDS_OF_OWN[kind]
        if kind == "show":
            right = right and f'"{MARK}":"{tenant.name}"'.encode() in content
        if kind == "delete many":
            right = right and content == DELETED
        self.findings.lost += not right
        if kind in ("delete", "delete many") and right:
            tenant.owned.remove(memory_id)
            tenant.deleted.add(memory_id)

    def _ask(self, tenant: Tenant, kind: str, memory_id: str) -> Answer:
        texts, path = self._texts, f"/memories/{memory_id}"
        requests: dict[str, tuple[str, str, object]] = {
            "show": ("GET", path, None),
            "export": ("GET", f"{path}/prompt-embeds", None),
            "export with query": ("POST", f"{path}/prompt-embeds", {"query": texts.query}),
            "blob": ("GET", f"{path}/blob", None),
            "patch": ("PATCH", path, {"name": "a name"}),
            "append": ("POST", "/write", {"document": texts.document, "append_to": memory_id}),
            "replace page": ("PUT", f"{path}/pages/{NO_PAGE}", {"document": texts.document}),
            "delete page": ("DELETE", f"{path}/pages/{NO_PAGE}", None),
            "delete": ("DELETE", path, None),
            "delete many": ("POST", "/memories/delete", {"memory_ids": [memory_id]}),
            "read": ("POST", "/read", {"memory_id": memory_id, "query": texts.query}),
            "chat": (
                "POST",
                "/v1/chat/completions",
                {
                    "model": f"{self._model}:{memory_id}",
                    "messages": [{"role": "user", "content": texts.query}],
                },
            ),
        }
        method, target, body = requests[kind]
        response = tenant.http.request(method, target, json=body)
        headers = sorted(item for item in response.headers.items() if item[0] not in UNTOLD)
        return response.status_code, response.content, tuple(headers)


KINDS_OF_OWN = {
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
KINDS = tuple(KINDS_OF_OWN)


def run_walk(
    url: str, keys: dict[str, str], texts: Texts, *, operations: int, seed: int
) -> Findings:
    """Let tenants carry out random operations; return what was found.

    Args:
        url: Base URL of the service.
        keys: A key that may write, by the name of its tenant.
        texts: What is written and asked.
        operations: Number of operations.
        seed: Seed of the walk.
    """
    walking = Walk(url, keys, texts, seed=seed)
    try:
        for _ in range(operations):
            walking.step()
        walking.finish()
    finally:
        walking.close()
    return walking.findings

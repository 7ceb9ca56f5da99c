"""Random operations of several tenants, held against a model of who owns what.

The model has the memories, jobs and idempotency keys of each tenant. A request for a memory or a
job that the tenant does not have in the model, whoever else has it, must be answered to the byte as
one for an id that nobody ever had. A blob of another tenant must be refused, and an idempotency key
that only others have used must be new.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from benchmarks.isolation.model import Findings, Holdings, Tenant
from benchmarks.isolation.requests import JOB_KINDS, KINDS, Reply, Texts, ask

REQUEST_SECONDS = 120.0
NOBODYS = "0" * 32
"An id that no memory and no job has."
AIMS = {
    "write": 19,
    "write with a key": 6,
    "submit a job": 3,
    "import": 6,
    "own": 30,
    "foreign": 26,
    "deleted": 5,
    "list memories": 3,
    "list jobs": 2,
}
"Operations with their shares; own, foreign and deleted are memories and jobs."
IDEMPOTENCY_KEYS = [f"key-{number}" for number in range(4)]
"Keys that all tenants use."
MAX_LIST, MAX_JOB_LIST = 1000, 100
"Most memories and most jobs of a list."
DELETED = b'{"deleted":1,"next_cursor":null}'
"Answer to the deletion of a memory among many."
MARK = "owner"
"Name of the metadata that says whose memory it is."
SAME_REQUEST = {
    "X-Request-ID": "isolation",
    "traceparent": "00-00000000000000000000000000000001-0000000000000001-00",
}
"The ids of every request, which answers repeat."


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
        [aim] = self._random.choices(list(AIMS), list(AIMS.values()))
        operations = {
            "write": self._write,
            "write with a key": self._write_with_key,
            "submit a job": self._submit,
            "import": self._import,
            "list memories": self._list_memories,
            "list jobs": self._list_jobs,
        }
        if aim in operations:
            operations[aim](tenant)
            return
        kind = self._random.choice(list(KINDS))
        targets = self._targets(tenant, aim, kind)
        if targets:
            self._check(tenant, kind, self._random.choice(targets))
        else:
            self._write(tenant)

    def finish(self) -> None:
        """Look for everything in the model as its owner, and as the next tenant."""
        deadline = time.monotonic() + REQUEST_SECONDS
        for tenant in self._tenants:
            for job_id in sorted(tenant.jobs.owned):
                self._await_job(tenant, job_id, deadline)
        for tenant, other in zip(self._tenants, self._tenants[1:] + self._tenants[:1], strict=True):
            for kind in ("show", "show job"):
                holdings = _holdings(tenant, kind)
                for item_id in sorted(holdings.owned):
                    self._check(tenant, kind, item_id)
                    self._check(other, kind, item_id)
                for item_id in sorted(holdings.deleted):
                    self._check(tenant, kind, item_id)

    def _targets(self, tenant: Tenant, aim: str, kind: str) -> Sequence[str]:
        if aim == "own":
            return sorted(_holdings(tenant, kind).owned)
        if aim == "deleted":
            return sorted(_holdings(tenant, kind).deleted)
        return sorted(_holdings(self._other(tenant), kind).owned)

    def _other(self, tenant: Tenant) -> Tenant:
        return self._random.choice([other for other in self._tenants if other is not tenant])

    def _write(self, tenant: Tenant) -> None:
        response = tenant.http.post("/write", json=self._body({MARK: tenant.name}))
        if response.status_code == 201:
            tenant.memories.add(response.json()["memory_id"])
        else:
            self.findings.lost += 1

    def _write_with_key(self, tenant: Tenant) -> None:
        """Write with a key that others may have used for the same body."""
        key = self._random.choice(IDEMPOTENCY_KEYS)
        headers = {"Idempotency-Key": key}
        response = tenant.http.post("/write", json=self._body({}), headers=headers)
        written = response.json()["memory_id"] if response.status_code == 201 else None
        replayed = "Idempotency-Replayed" in response.headers
        memory_id = tenant.written.get(key)
        if memory_id is None:
            self.findings.foreign += 1
            if written is None or replayed:
                self.findings.leaked += 1
            else:
                tenant.written[key] = written
                self._adopt(tenant, written)
        elif memory_id in tenant.memories.owned:
            self.findings.lost += not (replayed and written == memory_id)
        else:
            self.findings.revived += response.status_code != 404

    def _submit(self, tenant: Tenant) -> None:
        body, headers = self._body({MARK: tenant.name}), {"Prefer": "respond-async"}
        response = tenant.http.post("/write", json=body, headers=headers)
        if response.status_code == 202:
            tenant.jobs.add(response.json()["job_id"])
        else:
            self.findings.lost += 1

    def _import(self, tenant: Tenant) -> None:
        """Import what a tenant exported: under the same id, a new one, or one that another has."""
        exporter = self._random.choice(self._tenants)
        if not exporter.blobs:
            self._write(tenant)
            return
        source = self._random.choice(sorted(exporter.blobs))
        new = f"{self._random.getrandbits(128):032x}"
        taken = sorted(self._other(tenant).memories.owned - tenant.memories.owned) or [new]
        memory_id = self._random.choice([source, new, self._random.choice(taken)])
        content = exporter.blobs[source]
        headers = {"Content-Type": "application/vnd.safetensors"}
        response = tenant.http.put(f"/memories/{memory_id}/blob", content=content, headers=headers)
        if exporter is not tenant:
            self.findings.foreign += 1
            self.findings.leaked += response.status_code != 422
            self._check(tenant, "show", memory_id)
        elif response.status_code == (200 if memory_id in tenant.memories.owned else 201):
            tenant.blobs[memory_id] = content
            self._adopt(tenant, memory_id)
        else:
            self.findings.lost += 1

    def _adopt(self, tenant: Tenant, memory_id: str) -> None:
        """Note that a tenant has a memory, and mark it."""
        tenant.memories.add(memory_id)
        changes = {"metadata": {MARK: tenant.name}}
        response = tenant.http.patch(f"/memories/{memory_id}", json=changes)
        self.findings.lost += response.status_code != 200

    def _list_memories(self, tenant: Tenant) -> None:
        """List the memories of a tenant, all or those marked as a tenant's."""
        owner = self._random.choice([None, *self._tenants])
        query: dict[str, str | int] = {"limit": MAX_LIST}
        if owner is not None:
            query["metadata"] = f"{MARK}={owner.name}"
        expected = tenant.memories.owned if owner in (None, tenant) else set()
        response = tenant.http.get("/memories", params=query)
        if response.status_code != 200:
            self.findings.lost += 1
            return
        marks = {each["memory_id"]: each["metadata"] for each in response.json()["memories"]}
        self.findings.foreign += 1
        self.findings.leaked += any(mark != {MARK: tenant.name} for mark in marks.values())
        self._check_list(tenant.memories, expected, set(marks), most=MAX_LIST)

    def _list_jobs(self, tenant: Tenant) -> None:
        response = tenant.http.get("/jobs", params={"limit": MAX_JOB_LIST})
        if response.status_code != 200:
            self.findings.lost += 1
            return
        listed = {job["job_id"] for job in response.json()["jobs"]}
        self.findings.foreign += 1
        self.findings.leaked += bool(listed - tenant.jobs.owned - tenant.jobs.deleted)
        self._check_list(tenant.jobs, tenant.jobs.owned, listed, most=MAX_JOB_LIST)

    def _check_list(
        self, holdings: Holdings, expected: set[str], listed: set[str], *, most: int
    ) -> None:
        self.findings.revived += bool(listed & holdings.deleted)
        self.findings.lost += len(listed) < most and bool(expected - listed)

    def _check(self, tenant: Tenant, kind: str, item_id: str) -> None:
        """Ask for a memory or a job, and compare the answer with the model."""
        answer, holdings = self._ask(tenant, kind, item_id), _holdings(tenant, kind)
        if item_id in holdings.owned:
            self.findings.lost += not self._is_right(tenant, kind, item_id, answer)
            return
        wrong = answer != self._missing[kind]
        if item_id in holdings.deleted:
            self.findings.revived += wrong
        else:
            self.findings.foreign += 1
            self.findings.leaked += wrong

    def _is_right(self, tenant: Tenant, kind: str, item_id: str, answer: Reply) -> bool:
        """Return true for a right answer to an owner, and note in the model what it changes."""
        if answer.status != KINDS[kind] or (kind == "delete many" and answer.content != DELETED):
            return False
        match kind:
            case "show":
                return bool(json.loads(answer.content)["metadata"] == {MARK: tenant.name})
            case "blob":
                tenant.blobs[item_id] = answer.content
            case "delete" | "delete many":
                tenant.memories.remove(item_id)
            case "job results":
                return self._note_results(tenant, json.loads(answer.content)["results"])
            case "cancel job":
                return self._note_cancelled(tenant, item_id)
        return True

    def _note_results(self, tenant: Tenant, results: Sequence[Any]) -> bool:
        """Note the memories that a job has written; return true if they are the tenant's."""
        memories = [result.get("memory") for result in results if result is not None]
        if any(memory is None or memory["metadata"] != {MARK: tenant.name} for memory in memories):
            return False
        for memory in memories:
            if memory["memory_id"] not in tenant.memories.deleted:
                tenant.memories.add(memory["memory_id"])
        return True

    def _note_cancelled(self, tenant: Tenant, job_id: str) -> bool:
        """Note that the record of a job is gone, or return true if it says that it is cancelled."""
        answer = self._ask(tenant, "show job", job_id)
        if answer == self._missing["show job"]:
            tenant.jobs.remove(job_id)
            return True
        return answer.status == 200 and json.loads(answer.content)["status"] == "cancelled"

    def _await_job(self, tenant: Tenant, job_id: str, deadline: float) -> None:
        """Wait for the end of a job, and note what it has written."""
        while time.monotonic() < deadline:
            answer = self._ask(tenant, "show job", job_id)
            if answer.status != 200 or json.loads(answer.content)["ended_at"] is not None:
                break
            time.sleep(0.1)
        self._check(tenant, "job results", job_id)

    def _body(self, metadata: Mapping[str, str]) -> dict[str, object]:
        return {
            "document": self._texts.document,
            "steps": 1,
            "verify": False,
            "metadata": metadata,
        }

    def _ask(self, tenant: Tenant, kind: str, item_id: str) -> Reply:
        return ask(tenant.http, kind, item_id, self._texts, model=self._model)


def _holdings(tenant: Tenant, kind: str) -> Holdings:
    """Return what a tenant has of the things that a kind of request is for."""
    return tenant.jobs if kind in JOB_KINDS else tenant.memories


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

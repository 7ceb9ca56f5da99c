"""Draw requests from the OpenAPI document of a running service, and check the answers with it.

Schemathesis draws and checks. Random text names no memory and is no document of the checkpoint, so
half of the requests get values that do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.errors import InvalidSchema
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Err, Ok
from schemathesis.schemas import APIOperation

from benchmarks.reliability_rows import FuzzedRoute
from service.client import Client

MEMORIES = 3
"Memories that are there when the requests of a route begin, and jobs that have ended by then."
REQUEST_SECONDS = 120.0

Known = Mapping[str, Sequence[Any]]
"Values of the service by the name of the field or parameter that takes them."
Operation = APIOperation[Any, Any, Any, Any]
Report = Callable[[str], None]
BLOB_TYPE = "application/vnd.safetensors"
BLOB = "a whole body"
"Name of the bodies that are no JSON, among the known values."
load_all_checks()
RESPONSE_CHECKS: list[Any] = [
    CHECKS.get_one(name)
    for name in (
        *("status_code_conformance", "content_type_conformance"),
        *("response_schema_conformance", "response_headers_conformance"),
    )
]


@schemathesis.serializer(BLOB_TYPE)
def serialize_blob(_context: object, value: Any) -> bytes:  # noqa: ANN401
    """Return the body of a request to import a blob: what was drawn, as bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


@dataclass
class Answers:
    """Counts of the answers of a route."""

    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    violations: int = 0
    titles: set[str] = field(default_factory=set)
    "Titles of the failures that were reported."


@dataclass(frozen=True)
class Fuzzer:
    """Requests to a service.

    Args:
        url: Base URL of the service.
        key: A key that may do everything.
        document: A document of its first checkpoint.
        query: A query for it.
        seed: Seed of the requests.
        report: Called with each new kind of failure.
    """

    url: str
    key: str
    document: str
    query: str
    seed: int
    report: Report

    def run(self, count: int) -> Iterator[FuzzedRoute]:
        """Send about so many requests, as many to each route, and yield the answers of each."""
        authorized = {"Authorization": f"Bearer {self.key}"}
        schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json", headers=authorized)
        operations = list(map(_check_operation, schema.get_all_operations()))
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update(authorized)
            for operation in operations:
                answers, known = Answers(), self._known()
                for mode in GenerationMode:
                    strategy = operation.as_strategy(generation_mode=mode)
                    examples = max(1, count // len(operations) // len(GenerationMode))
                    self._send(strategy, known, session, answers, examples)
                yield FuzzedRoute(
                    route=f"{operation.method.upper()} {operation.path}",
                    requests=answers.succeeded + answers.refused + answers.failed,
                    succeeded=answers.succeeded,
                    refused=answers.refused,
                    failed=answers.failed,
                    violations=answers.violations,
                )

    def _send(
        self,
        strategy: st.SearchStrategy[Case[Any]],
        known: Known,
        session: requests.Session,
        answers: Answers,
        examples: int,
    ) -> None:
        @seed(self.seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy, st.data())
        def send(case: Case[Any], data: st.DataObject) -> None:
            if data.draw(st.booleans()):
                _insert(case, known, data)
            response = case.call(session=session, timeout=REQUEST_SECONDS)
            status = response.status_code
            failed = status >= 500 and not _is_late(case, status)
            answers.succeeded += status < 400
            answers.refused += status >= 400 and not failed
            answers.failed += failed
            if failed:
                self._tell(answers, str(status), case.as_curl_command())
            try:
                case.validate_response(response, checks=RESPONSE_CHECKS)
            except FailureGroup as group:
                answers.violations += 1
                for failure in group.exceptions:
                    self._tell(answers, failure.title, f"{failure}\n{case.as_curl_command()}")

        with suppress(Unsatisfiable):  # the document forbids nothing
            send()

    def _known(self) -> Known:
        """Write memories; return what requests may name."""
        with Client(self.url, key=self.key) as client:
            jobs = [client.submit([self.document], steps=1) for _ in range(MEMORIES)]
            memories = [client.write(self.document, steps=1) for _ in range(MEMORIES)]
            models = [model.name for model in client.models()]
            blobs = [memory.export() for memory in memories]
            for job in jobs:
                job.wait()
        ids = [memory.memory_id for memory in memories]
        return {
            "memory_id": ids,
            "memory": ids,
            "append_to": ids,
            "page_id": [page.page_id for memory in memories for page in memory.info.pages],
            "page": [page.page_id for memory in memories for page in memory.info.pages],
            "job_id": [job.job_id for job in jobs],
            BLOB: blobs,
            "document": [self.document],
            "messages": [[{"role": "user", "content": self.query}]],
            "query": [self.query],
            "model": models,
            "name": models,
        }

    def _tell(self, answers: Answers, title: str, text: str) -> None:
        if title not in answers.titles:
            answers.titles.add(title)
            self.report(f"{title}\n{text}")


def _check_operation(found: Ok[Operation] | Err[InvalidSchema]) -> Operation:
    """Return a route of the document; an invalid one ends the fuzzing."""
    if isinstance(found, Err):
        raise found.err()
    return found.ok()


def _is_late(case: Case[Any], status: int) -> bool:
    """Return whether a request was given up because it asked for too little time."""
    return status == 504 and isinstance(case.body, dict) and case.body.get("timeout") is not None


def _insert(case: Case[Any], known: Known, data: st.DataObject) -> None:
    """Put values that the service knows in place of all or some that were drawn."""
    every = data.draw(st.booleans())
    if case.media_type == BLOB_TYPE and (every or data.draw(st.booleans())):
        case.body = data.draw(st.sampled_from(known[BLOB]))
    parts: list[Any] = [case.path_parameters, case.query, case.body]
    for part in parts:
        for name in sorted(known.keys() & set(part)) if isinstance(part, dict) else ():
            if every or data.draw(st.booleans()):
                part[name] = data.draw(st.sampled_from(known[name]))

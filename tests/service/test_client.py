"""The client, sync and async, against a running service."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast, get_type_hints

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from service.app import create_app
from service.client import (
    AsyncClient,
    AsyncMemory,
    AsyncStream,
    AsyncSubmittedJob,
    BatchDocument,
    Client,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    Memory,
    NotFound,
    ProblemError,
)
from service.jobs.schemas import JobInfo
from service.models import Models
from service.schemas import (
    MAX_QUERIES,
    RecallEvent,
    StepEvent,
    TokenEvent,
    WriteRequest,
    WriteResult,
)
from service.settings import Settings
from tests.service.conftest import Serving, save_tiny

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:", "?!0z:"]
TOO_LONG = 2**70


class Blocking:
    """An AsyncClient, or what it returned, with the blocking methods of its counterpart."""

    def __init__(self, wrapped: object, portal: BlockingPortal) -> None:
        self._wrapped = wrapped
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        return self._wrap_method(value) if callable(value) else value

    def __iter__(self) -> Iterator[object]:
        async def take(events: AsyncIterator[object]) -> object:
            return await anext(events, None)

        assert isinstance(self._wrapped, AsyncIterable)
        return iter(partial(self._portal.call, take, aiter(self._wrapped)), None)

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        assert isinstance(self._wrapped, AsyncStream)
        self._portal.call(self._wrapped.aclose)

    def _wrap(self, result: object) -> object:
        wrapped = isinstance(result, AsyncMemory | AsyncStream | AsyncSubmittedJob | AsyncIterable)
        return Blocking(result, self._portal) if wrapped else result

    def _wrap_method(self, method: Callable[..., object]) -> Callable[..., object]:
        async def call(*args: object, **options: object) -> object:
            result = method(*args, **options)
            return await result if isinstance(result, Awaitable) else result

        def block(*args: object, **options: object) -> object:
            result = self._portal.call(partial(call, *args, **options))
            if isinstance(result, list):
                return [self._wrap(each) for each in result]
            return self._wrap(result)

        return block


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, base_url: str) -> Iterator[Client]:
    if request.param == "sync":
        with Client(base_url, timeout_seconds=30) as client:
            yield client
    else:
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(AsyncClient(base_url, timeout_seconds=30)) as opened,
        ):
            yield cast("Client", Blocking(opened, portal))


@pytest.fixture
def memory(client: Client) -> Memory[WriteResult]:
    return client.write(DOCUMENT)


def test_write_returns_the_description_of_the_memory(client: Client) -> None:
    memory = client.write(
        DOCUMENT, model="tiny", steps=3, ttl_seconds=60, metadata={"ключ": "🎉\x00\n"}
    )
    assert (memory.info.model, memory.info.tokens, memory.info.write_steps) == (
        "tiny",
        len(DOCUMENT),
        3,
    )
    assert memory.info.metadata == {"ключ": "🎉\x00\n"}
    assert memory.info.expires_at is not None
    assert (memory.info.expires_at - memory.info.created_at).total_seconds() == pytest.approx(60)
    assert (memory.info.duplicate_keys, memory.info.skipped_lines) == ([], [])
    shown = memory.describe().model_dump()
    assert memory.info.model_dump(include=set(shown)) == shown


def test_none_stands_for_the_defaults_of_the_service(
    client: Client, memory: Memory[WriteResult]
) -> None:
    same = client.write(DOCUMENT, model=None, steps=None, ttl_seconds=None, metadata=None)
    assert (same.info.write_steps, same.info.expires_at, same.info.metadata) == (
        memory.info.write_steps,
        None,
        {},
    )
    plain = memory.ask(QUERIES[0])
    assert plain == memory.ask(QUERIES[0], max_new_tokens=None, temperature=None)


def test_answers_come_in_the_order_of_the_queries(memory: Memory[WriteResult]) -> None:
    answers = memory.ask_many(QUERIES)
    assert [answer.query for answer in answers] == QUERIES
    for query, answer in zip(QUERIES, answers, strict=True):
        alone = memory.ask(query)
        assert (alone.query, alone.answer) == (query, answer.answer)
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-4)


def test_sampling_reaches_the_service(memory: Memory[WriteResult]) -> None:
    def drawn(seed: int) -> str | None:
        return memory.ask(QUERIES[0], temperature=5, top_p=0.9, seed=seed).answer

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 1
    assert memory.ask(QUERIES[0], max_new_tokens=1).tokens <= 1


def test_a_deleted_memory_is_gone(memory: Memory[WriteResult]) -> None:
    memory.delete()
    gone: list[Callable[[], object]] = [
        memory.describe,
        memory.delete,
        partial(memory.ask, QUERIES[0]),
    ]
    for call in gone:
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.status == 404
        assert caught.value.problem.type == "urn:gradmem:problem:memory-not-found"


def test_models_lists_the_served_checkpoints(client: Client, tiny: Checkpoint) -> None:
    [model] = client.models()
    assert (model.name, model.fingerprint) == ("tiny", tiny.fingerprint)
    assert (model.memory_tokens, model.width, model.max_context_tokens) == (4, 32, 64)


def test_a_running_service_is_ready(client: Client) -> None:
    assert client.ready() is True


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="tiny") as caught:
        client.write(DOCUMENT, model="nobody's")
    assert caught.value.problem.type == "urn:gradmem:problem:model-not-found"


def test_a_document_too_long_is_refused_with_the_limit(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"65.*64") as caught:
        client.write("a" * 65)
    assert (caught.value.status, caught.value.problem.limit) == (413, 64)


def test_unknown_characters_are_refused_with_their_places(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write("!aB:é\n!|")
    assert (caught.value.status, caught.value.problem.positions) == (422, [4, 5])


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": TOO_LONG},
        {"ttl_seconds": -1},
        {"metadata": {"a": 1}},
        {"no_such_option": True},
    ],
    ids=str,
)
def test_an_invalid_option_of_write_is_refused(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write(DOCUMENT, **options)
    assert caught.value.status == 422


@pytest.mark.parametrize("document", ["", "\udc80", 5], ids=ascii)
def test_a_document_that_is_not_text_is_refused(client: Client, document: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.write(document)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "options",
    [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"seed": TOO_LONG}],
    ids=str,
)
def test_an_invalid_option_of_read_is_refused(
    memory: Memory[WriteResult], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        memory.ask(QUERIES[0], **options)
    assert caught.value.problem.errors


@pytest.mark.parametrize(
    "queries",
    [[], "?!aB:", ["?!aB:"] * (MAX_QUERIES + 1), [""]],
    ids=["none", "a text", "too many", "empty"],
)
def test_invalid_queries_are_refused(memory: Memory[WriteResult], queries: Any) -> None:
    with pytest.raises(InvalidRequest):
        memory.ask_many(queries)


@pytest.mark.parametrize(
    "memory_id",
    ["", ".", "..", "../models", "a/b", "%2e%2e", "?x", "#", "\x00", "é", "\udc80", "a" * 5000],
    ids=lambda value: ascii(value)[:20],
)
def test_no_memory_id_leads_to_another_route(client: Client, memory_id: str) -> None:
    memory = client.memory(memory_id)
    for call in (memory.describe, memory.delete):
        with pytest.raises(NotFound):
            call()
    with pytest.raises((NotFound, InvalidRequest)):
        memory.ask(QUERIES[0])


def test_a_memory_of_another_checkpoint_is_a_conflict(
    serving: Serving, settings: Settings, tiny: Checkpoint, tmp_path: Path
) -> None:
    other = load_checkpoint(save_tiny(tmp_path / "tiny", seed=2))
    with (
        serving(create_app(settings, models=Models([tiny]))) as base_url,
        Client(base_url) as client,
    ):
        memory = client.write(DOCUMENT)
    with (
        serving(create_app(settings, models=Models([other]))) as base_url,
        Client(base_url) as client,
        pytest.raises(Conflict) as caught,
    ):
        client.memory(memory.memory_id).ask(QUERIES[0])
    assert caught.value.status == 409
    assert tiny.fingerprint in caught.value.problem.detail


@pytest.mark.anyio
async def test_an_async_client_makes_many_calls_at_once(base_url: str) -> None:
    answers: dict[str, str | None] = {}
    async with AsyncClient(base_url) as client:
        memory = await client.write(DOCUMENT)

        async def ask(query: str) -> None:
            answers[query] = (await memory.ask(query)).answer

        async with anyio.create_task_group() as group:
            for query in QUERIES:
                group.start_soon(ask, query)
        together = await memory.ask_many(QUERIES)
    assert answers == {answer.query: answer.answer for answer in together}


def test_lists_grow_and_shrink_by_pages(lists_url: str) -> None:
    with Client(lists_url) as client:
        memory = client.write("a: 1\na: 2\nhello")
        assert (memory.info.duplicate_keys, memory.info.skipped_lines, memory.info.records) == (
            ["a"],
            [3],
            1,
        )
        whole = memory.append("b: 3")
        assert len(whole.pages) == 2
        memory.delete_page(memory.info.pages[0].page_id)
        assert memory.describe().pages == whole.pages[1:]
        with pytest.raises(InvalidRequest):
            memory.delete_page(whole.pages[1].page_id)
        for page in (memory.info.pages[0].page_id, "", "../x"):
            with pytest.raises(NotFound):
                memory.delete_page(page)


@pytest.mark.anyio
async def test_lists_grow_and_shrink_by_pages_without_blocking(lists_url: str) -> None:
    async with AsyncClient(lists_url) as client:
        memory = await client.write("a: 1")
        whole = await memory.append("b: 3")
        await memory.delete_page(memory.info.pages[0].page_id)
        assert (await memory.describe()).pages == whole.pages[1:]


def test_an_answer_is_true_where_one_was_found(memory: Memory[WriteResult]) -> None:
    for answer in (memory.ask(QUERIES[0]), memory.ask(QUERIES[0], min_confidence=1)):
        assert bool(answer) == answer.found == (answer.answer is not None)


def test_a_handle_alone_makes_a_memory(client: Client, memory: Memory[WriteResult]) -> None:
    same = client.memory(memory.memory_id)
    assert same.info is None
    assert same.describe().memory_id == memory.memory_id
    listed = next(iter(client.memories()))
    assert (listed.memory_id, listed.info.model) == (memory.memory_id, "tiny")


def test_many_documents_are_written_in_one_request(client: Client) -> None:
    documents: list[str | BatchDocument] = [
        DOCUMENT,
        "a" * 65,
        {"document": DOCUMENT, "name": "own"},
    ]
    written, refused, own = client.write_many(documents, name="all", steps=1, ttl_seconds=None)
    assert not isinstance(written, ProblemError)
    assert not isinstance(own, ProblemError)
    assert isinstance(refused, InvalidRequest)
    assert [memory.info.name for memory in (written, own)] == ["all", "own"]
    assert written.ask(QUERIES[0]).query == QUERIES[0]
    assert (refused.status, refused.problem.limit) == (413, 64)
    with pytest.raises(InvalidRequest):
        client.write_many([])


def test_a_document_of_a_batch_has_the_options_that_the_service_takes() -> None:
    of_calls = {"append_to", "recall"}
    assert set(get_type_hints(BatchDocument)) == WriteRequest.model_fields.keys() - of_calls


def test_a_job_is_awaited_and_its_memories_are_asked(client: Client) -> None:
    job = client.submit([DOCUMENT, {"document": "a" * 65}], steps=1, name="job")
    assert job.info.documents == 2
    info = client.job(job.job_id).wait(timeout_seconds=60)
    assert (info.status, info.written, info.failed) == ("done", 1, 1)
    written, refused = job.results()
    assert written is not None
    assert not isinstance(written, ProblemError)
    assert (written.info.name, written.ask(QUERIES[0]).query) == ("job", QUERIES[0])
    assert isinstance(refused, InvalidRequest)
    assert job.job_id in {each.job_id for each in client.jobs()}
    with pytest.raises(InvalidRequest, match="webhook"):
        client.submit([DOCUMENT], webhook_url="https://not-allowed.example")
    job.cancel()
    for call in (job.describe, job.results, job.cancel):
        with pytest.raises(NotFound):
            call()


def test_a_wait_for_a_job_may_end_before_the_job(client: Client) -> None:
    job = client.submit([DOCUMENT] * 64)
    seen: list[JobInfo] = []
    with pytest.raises(TimeoutError, match="of 64 documents"):
        job.wait(timeout_seconds=0, on_look=seen.append)
    assert [info.job_id for info in seen] == [job.job_id]
    job.cancel()
    assert job.wait(timeout_seconds=60).status == "cancelled"


def test_the_steps_of_a_write_are_streamed(client: Client) -> None:
    stream = client.write_stream(DOCUMENT, steps=3)
    events = [event for event in stream if isinstance(event, StepEvent)]
    assert [event.step for event in events] == [1, 2, 3]
    result = stream.result()
    assert [event.loss for event in events] == pytest.approx(result.losses[:3])
    assert client.memory(result.memory_id).describe().write_steps == 3


def test_a_stream_tells_how_well_tokens_are_recalled(client: Client) -> None:
    stream = client.write_stream(DOCUMENT, recall=True)
    (event,) = [event for event in stream if isinstance(event, RecallEvent)]
    assert "".join(token.text for token in event.tokens) == DOCUMENT
    assert len(stream.result().pages) == 1


def test_the_tokens_of_answers_are_streamed(memory: Memory[WriteResult]) -> None:
    stream = memory.ask_stream(*QUERIES, min_confidence=0)
    texts = [""] * len(QUERIES)
    for event in stream:
        assert isinstance(event, TokenEvent)
        texts[event.query] += event.text
    assert [answer.answer for answer in stream.result()] == texts
    assert memory.ask_stream(QUERIES[0]).result()[0].query == QUERIES[0]


def test_a_stream_that_is_refused_or_left_is_an_error(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.write_stream("a" * 65).result()
    with pytest.raises(NotFound):
        client.memory("0" * 32).ask_stream(QUERIES[0]).result()
    with client.write_stream(DOCUMENT) as stream:
        next(iter(stream))
    with pytest.raises(ConnectionFailed, match="ended before its result"):
        stream.result()


def test_limits_name_the_tenant(client: Client) -> None:
    limits = client.limits()
    assert (limits.tenant, limits.queries) == ("default", MAX_QUERIES)

"""The client, sync and async, against a running service."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from service.app import create_app
from service.client import (
    AsyncClient,
    Client,
    Conflict,
    InvalidRequest,
    NotFound,
)
from service.models import Models
from service.schemas import MAX_QUERIES, MemoryInfo
from service.settings import Settings
from tests.service.conftest import Serving, save_tiny

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:", "?!0z:"]
TOO_LONG = 2**70


class Blocking:
    """An AsyncClient with the blocking methods of a Client."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._portal.call(partial(method, *args, **kwargs))


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
def memory(client: Client) -> MemoryInfo:
    return client.write(DOCUMENT)


def test_write_returns_the_description_of_the_memory(client: Client) -> None:
    memory = client.write(
        DOCUMENT, model="tiny", steps=3, ttl_seconds=60, metadata={"ключ": "🎉\x00\n"}
    )
    assert (memory.model, memory.tokens, memory.write_steps) == ("tiny", len(DOCUMENT), 3)
    assert memory.metadata == {"ключ": "🎉\x00\n"}
    assert memory.expires_at is not None
    assert (memory.expires_at - memory.created_at).total_seconds() == pytest.approx(60)
    assert (memory.duplicate_keys, memory.skipped_lines) == ([], [])
    shown = client.show(memory.memory_id).model_dump()
    assert memory.model_dump(include=set(shown)) == shown


def test_none_stands_for_the_defaults_of_the_service(client: Client, memory: MemoryInfo) -> None:
    same = client.write(DOCUMENT, model=None, steps=None, ttl_seconds=None, metadata=None)
    assert (same.write_steps, same.expires_at, same.metadata) == (memory.write_steps, None, {})
    plain = client.read(memory.memory_id, QUERIES[0])
    assert plain == client.read(memory.memory_id, QUERIES[0], max_new_tokens=None, temperature=None)


def test_answers_come_in_the_order_of_the_queries(client: Client, memory: MemoryInfo) -> None:
    answers = client.read_many(memory.memory_id, QUERIES)
    assert [answer.query for answer in answers] == QUERIES
    for query, answer in zip(QUERIES, answers, strict=True):
        alone = client.read(memory.memory_id, query)
        assert (alone.query, alone.answer) == (query, answer.answer)
        assert alone.confidence == pytest.approx(answer.confidence, rel=1e-4)


def test_sampling_reaches_the_service(client: Client, memory: MemoryInfo) -> None:
    def drawn(seed: int) -> str | None:
        return client.read(memory.memory_id, QUERIES[0], temperature=5, top_p=0.9, seed=seed).answer

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 1
    assert client.read(memory.memory_id, QUERIES[0], max_new_tokens=1).tokens <= 1


def test_a_deleted_memory_is_gone(client: Client, memory: MemoryInfo) -> None:
    client.delete(memory.memory_id)
    gone: list[Callable[[str], object]] = [
        client.show,
        client.delete,
        lambda memory_id: client.read(memory_id, QUERIES[0]),
    ]
    for call in gone:
        with pytest.raises(NotFound) as caught:
            call(memory.memory_id)
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
    client: Client, memory: MemoryInfo, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.read(memory.memory_id, QUERIES[0], **options)
    assert caught.value.problem.errors


@pytest.mark.parametrize(
    "queries",
    [[], "?!aB:", ["?!aB:"] * (MAX_QUERIES + 1), [""]],
    ids=["none", "a text", "too many", "empty"],
)
def test_invalid_queries_are_refused(client: Client, memory: MemoryInfo, queries: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.read_many(memory.memory_id, queries)


@pytest.mark.parametrize(
    "memory_id",
    ["", ".", "..", "../models", "a/b", "%2e%2e", "?x", "#", "\x00", "é", "\udc80", "a" * 5000],
    ids=lambda value: ascii(value)[:20],
)
def test_no_memory_id_leads_to_another_route(client: Client, memory_id: str) -> None:
    for call in (client.show, client.delete):
        with pytest.raises(NotFound):
            call(memory_id)
    with pytest.raises((NotFound, InvalidRequest)):
        client.read(memory_id, QUERIES[0])


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
        client.read(memory.memory_id, QUERIES[0])
    assert caught.value.status == 409
    assert tiny.fingerprint in caught.value.problem.detail


@pytest.mark.anyio
async def test_an_async_client_makes_many_calls_at_once(base_url: str) -> None:
    answers: dict[str, str | None] = {}
    async with AsyncClient(base_url) as client:
        memory = await client.write(DOCUMENT)

        async def ask(query: str) -> None:
            answers[query] = (await client.read(memory.memory_id, query)).answer

        async with anyio.create_task_group() as group:
            for query in QUERIES:
                group.start_soon(ask, query)
        together = await client.read_many(memory.memory_id, QUERIES)
    assert answers == {answer.query: answer.answer for answer in together}


def test_lists_grow_and_shrink_by_pages(lists_url: str) -> None:
    with Client(lists_url) as client:
        memory = client.write("a: 1\na: 2\nhello")
        assert (memory.duplicate_keys, memory.skipped_lines, memory.records) == (["a"], [3], 1)
        whole = client.write("b: 3", append_to=memory.memory_id)
        assert len(whole.pages) == 2
        client.delete_page(memory.memory_id, memory.pages[0].page_id)
        assert client.show(memory.memory_id).pages == whole.pages[1:]
        with pytest.raises(InvalidRequest):
            client.delete_page(memory.memory_id, whole.pages[1].page_id)
        for page in (memory.pages[0].page_id, "", "../x"):
            with pytest.raises(NotFound):
                client.delete_page(memory.memory_id, page)


@pytest.mark.anyio
async def test_lists_grow_and_shrink_by_pages_without_blocking(lists_url: str) -> None:
    async with AsyncClient(lists_url) as client:
        memory = await client.write("a: 1")
        whole = await client.write("b: 3", append_to=memory.memory_id)
        await client.delete_page(memory.memory_id, memory.pages[0].page_id)
        assert (await client.show(memory.memory_id)).pages == whole.pages[1:]

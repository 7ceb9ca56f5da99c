"""Lists of memories over HTTP, with the client and the command line."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from typer.testing import CliRunner

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.cli import app
from service.client import AsyncClient, Client, InvalidRequest, NotFound
from service.models import Models
from service.schemas import MemoriesResponse
from service.settings import Settings
from tests.service.conftest import Serving

DOCUMENT = "!aB:7x!!kk:Q3!|"


@pytest.fixture(scope="module")
def url(
    tiny: Checkpoint, serving: Serving, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of a service with memories of this module alone."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    with serving(create_app(Settings(store_url=store, threads=1), models=Models([tiny]))) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client
        for memory in list(client.memories()):
            memory.delete()


def test_a_list_has_the_newest_first_in_parts(client: Client) -> None:
    ids = [client.write(DOCUMENT, name=f"memory {number}").memory_id for number in range(3)]
    with httpx.Client(base_url=client.base_url) as http:
        first = http.get("/memories", params={"limit": 2}).json()
        cursor = first["next_cursor"]
        rest = http.get("/memories", params={"limit": 2, "cursor": cursor}).json()
    memories = first["memories"] + rest["memories"]
    assert [memory["memory_id"] for memory in memories] == ids[::-1]
    assert [memory["name"] for memory in memories] == ["memory 2", "memory 1", "memory 0"]
    assert rest["next_cursor"] is None
    shown = client.memory(ids[2]).describe().model_dump(mode="json")
    assert memories[0] == {name: shown[name] for name in memories[0]}


def test_a_list_is_filtered(client: Client) -> None:
    later = client.write(DOCUMENT, ttl_seconds=7200, metadata={"user": "=a&b"})
    soon = client.write(DOCUMENT, ttl_seconds=3600, name="größer", metadata={"user": "b", "k": ""})
    in_90_minutes = datetime.now(UTC) + timedelta(minutes=90)
    assert [each.memory_id for each in client.memories(metadata={"user": "=a&b"})] == [
        later.memory_id
    ]
    for found in (
        client.memories(name="größer"),
        client.memories(metadata={"k": "", "user": "b"}),
        client.memories(expires_before=in_90_minutes),
        client.memories(model="tiny", name="größer"),
    ):
        assert [each.memory_id for each in found] == [soon.memory_id]
    assert not list(client.memories(model="other"))


def test_the_client_iterates_over_all_parts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.client.LIST_PART", 1)
    ids = [client.write(DOCUMENT).memory_id for _ in range(3)]
    assert [memory.memory_id for memory in client.memories()] == ids[::-1]


def test_much_metadata_makes_a_part_shorter(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.memories.MAX_LIST_CHARACTERS", 100)
    metadatas = [{"k": "a" * 40}, {"k": "b" * 40}, {"k": "c" * 400}, {}]
    ids = [client.write(DOCUMENT, metadata=metadata).memory_id for metadata in metadatas]
    parts = []
    cursor: dict[str, str] | None = {}
    with httpx.Client(base_url=client.base_url) as http:
        while cursor is not None:
            part = http.get("/memories", params=cursor).json()
            parts.append([memory["memory_id"] for memory in part["memories"]])
            cursor = {"cursor": part["next_cursor"]} if part["next_cursor"] else None
    assert parts == [[ids[3]], [ids[2]], [ids[1], ids[0]]]


@pytest.mark.anyio
async def test_a_long_list_is_serialised_on_another_thread(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    serialise = MemoriesResponse.model_dump_json

    def note_thread(response: MemoriesResponse) -> str:
        threads.append(threading.current_thread().name)
        return serialise(response)

    monkeypatch.setattr(MemoriesResponse, "model_dump_json", note_thread)
    async with httpx.AsyncClient(base_url=client.base_url) as http:
        await http.get("/memories")
        for _ in range(3):
            await http.post("/write", json={"document": DOCUMENT}, timeout=60)
        await http.get("/memories")
    loop, other = threads
    assert other != loop


@pytest.mark.anyio
async def test_the_asynchronous_client_iterates_over_all_parts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.client.LIST_PART", 1)
    ids = [client.write(DOCUMENT).memory_id for _ in range(2)]
    async with AsyncClient(client.base_url) as other:
        assert [memory.memory_id async for memory in other.memories()] == ids[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "cursor=mine",
        "cursor=" + "0" * 51,
        "metadata=user",
        "metadata=a%3Db&" * 33,
        "expires_before=2026-01-01T00:00:00",
    ],
)
def test_a_bad_list_is_refused(url: str, query: str) -> None:
    response = httpx.get(f"{url}/memories?{query}")
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_a_name_is_not_given_to_an_older_memory(url: str) -> None:
    body = {"document": DOCUMENT, "append_to": "0" * 32, "name": "mine"}
    response = httpx.post(f"{url}/write", json=body)
    assert response.status_code == 422
    assert "append_to excludes" in response.json()["detail"]


def test_ls_prints_a_table(client: Client) -> None:
    older = client.write(DOCUMENT, ttl_seconds=3600)
    newer = client.write(DOCUMENT, name="my\x1b name", metadata={"user": "a"})
    result = CliRunner().invoke(app, ["ls", "--url", client.base_url])
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "MODEL", "CREATED", "EXPIRES", "NAME", "METADATA"]
    assert [row.split()[0] for row in rows] == [newer.memory_id, older.memory_id]
    assert rows[0].split()[3:] == ["-", "my\\x1b", "name", "user=a"]
    assert rows[1].split()[3].endswith("Z")


def test_ls_prints_json_up_to_its_limit(client: Client) -> None:
    ids = [client.write(DOCUMENT, metadata={"user": "a"}).memory_id for _ in range(2)]
    options = ["ls", "--url", client.base_url, "--json", "--metadata", "user=a", "--limit"]
    result = CliRunner().invoke(app, [*options, "1"])
    assert [each["memory_id"] for each in json.loads(result.stdout)["memories"]] == ids[1:]
    assert "more than 1 memories" in result.stderr
    assert CliRunner().invoke(app, [*options, "2"]).stderr == ""


# Changes


def test_a_patch_changes_what_it_names(client: Client) -> None:
    memory = client.write(DOCUMENT, name="old", metadata={"user": "a", "kind": "note"})
    changed = memory.patch(metadata={"user": "b", "kind": None, "new": "1"})
    assert changed.metadata == {"user": "b", "new": "1"}
    assert (changed.name, changed.expires_at) == ("old", None)
    changed = memory.patch(name="größer", ttl_seconds=3600)
    assert changed.expires_at is not None
    assert abs(changed.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=5)
    assert memory.describe() == changed
    assert [each.info.name for each in client.memories(metadata={"user": "b"})] == ["größer"]
    assert not list(client.memories(metadata={"user": "a"}))
    cleared = memory.patch(name=None, metadata=None, ttl_seconds=None)
    assert (cleared.name, cleared.metadata, cleared.expires_at) == (None, {}, None)
    assert memory.ask("?!kk:").query == "?!kk:"


def test_a_patch_that_names_nothing_changes_nothing(client: Client) -> None:
    memory = client.write(DOCUMENT, name="old", ttl_seconds=3600)
    assert memory.patch() == memory.describe()


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"ttl_seconds": 0},
        {"metadata": {"user": 1}},
        {"metadata": {f"key {number}": None for number in range(33)}},
        {"model": "other"},
        [],
    ],
)
def test_a_bad_patch_is_refused(client: Client, body: object) -> None:
    memory = client.write(DOCUMENT, name="old")
    response = httpx.patch(f"{client.base_url}/memories/{memory.memory_id}", json=body)
    assert response.status_code == 422, response.text
    assert memory.describe().name == "old"


def test_a_patch_may_not_add_too_many_entries(client: Client) -> None:
    memory = client.write(DOCUMENT, metadata={str(number): "" for number in range(32)})
    with pytest.raises(InvalidRequest, match="33 entries"):
        memory.patch(metadata={"more": ""})
    assert memory.patch(metadata={"more": "", "0": None}).metadata["more"] == ""


def test_a_missing_memory_is_not_patched(client: Client) -> None:
    with pytest.raises(NotFound):
        client.memory("0" * 32).patch(name="mine")


def test_many_are_deleted_by_their_ids(client: Client) -> None:
    ids = [client.write(DOCUMENT).memory_id for _ in range(3)]
    assert client.delete_many([*ids[:2], "0" * 32]) == 2
    assert [memory.memory_id for memory in client.memories()] == ids[2:]
    with pytest.raises(NotFound):
        client.memory(ids[0]).ask("?!kk:")


def test_many_are_deleted_by_a_filter(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.memories.MAX_LIST", 1)
    for user in "aabc":
        client.write(DOCUMENT, metadata={"user": user}, ttl_seconds=3600)
    in_two_hours = datetime.now(UTC) + timedelta(hours=2)
    assert client.delete_many(metadata={"user": "a"}, expires_before=in_two_hours) == 2
    assert [memory.info.metadata["user"] for memory in client.memories()] == ["c", "b"]
    assert client.delete_many(metadata={"user": "a"}) == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"memory_ids": []},
        {"memory_ids": ["mine"]},
        {"memory_ids": ["0" * 32] * 1001},
        {"filter": {}},
        {"filter": {"metadata": {}}},
        {"filter": {"user": "a"}},
        {"filter": {"name": "a"}, "memory_ids": ["0" * 32]},
        {"filter": {"name": "a"}, "cursor": "mine"},
        {"filter": {"expires_before": "2026-01-01T00:00:00"}},
    ],
)
def test_a_bad_deletion_is_refused(client: Client, body: object) -> None:
    memory = client.write(DOCUMENT)
    response = httpx.post(f"{client.base_url}/memories/delete", json=body)
    assert response.status_code == 422, response.text
    assert memory.describe().name is None

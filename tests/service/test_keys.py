"""Keys, roles and tenants over HTTP and on the command line."""

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.faults.redis_server import RedisServer
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import BlobError
from gradmem_core.tenants import DEFAULT_TENANT
from service import access
from service.app import create_app
from service.cli import app as command
from service.client import AccessDenied, Client, InvalidKey
from service.encryption import REGISTER_TENANT
from service.keys import ApiKey, KeyLimits, Role, make_key
from service.models import Models
from service.settings import Settings
from service.stores import create_store
from service.stores.base import PROBE_TENANT, spend_token
from tests.service.conftest import Serving
from tests.service.stored import a_memory
from tests.service.test_foreign_blobs import a_blob

pytestmark = pytest.mark.anyio

DOCUMENT = "!aB:7x!!kk:Q3!|"
QUERY = "?!kk:"
OPEN = {"/livez", "/readyz"}
MISSING = "0" * 32
CLIENTS: list[tuple[str, Role]] = [
    ("acme", "read"),
    ("acme", "write"),
    ("acme", "admin"),
    ("rival", "admin"),
]
Keys = dict[tuple[str, Role], str]


async def store_keys(url: str) -> Keys:
    keys: Keys = {}
    async with create_store(url) as store:
        for tenant, role in CLIENTS:
            keys[tenant, role], record = make_key(tenant, role, KeyLimits())
            await store.save_key(record.key_id, record.model_dump_json())
    return keys


async def save(url: str, record: ApiKey) -> None:
    async with create_store(url) as store:
        await store.save_key(record.key_id, record.model_dump_json())


async def change_key(url: str, key: str, **fields: object) -> None:
    """Change the record of a key behind the service's back."""
    key_id = key.split("_")[1]
    async with create_store(url) as store:
        text = await store.find_key(key_id)
        assert text is not None
        await store.save_key(key_id, json.dumps(json.loads(text) | fields))


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/memories.db"
    # A database of its own: services of other tests need none of these keys.
    return str(request.getfixturevalue("redis_server")).removesuffix("0") + "7"


@pytest.fixture
def keys(store_url: str) -> Keys:
    return asyncio.run(store_keys(store_url))


@pytest.fixture
def url(store_url: str, keys: Keys, tiny: Checkpoint, serving: Serving) -> Iterator[str]:
    """Base URL of a service that has keys."""
    assert keys
    app = create_app(Settings(store_url=store_url, threads=1), models=Models([tiny]))
    with serving(app) as base:
        yield base


def as_client(url: str, key: str | None) -> httpx.Client:
    """Return a client whose requests have the same id, which answers repeat."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=url, headers={"X-Request-ID": "test", **headers})


def write(url: str, key: str) -> str:
    with Client(url, key=key) as client:
        return client.write(DOCUMENT, steps=1, verify=False).memory_id


def test_a_client_does_what_its_role_allows(url: str, keys: Keys) -> None:
    memory_id = write(url, keys["acme", "write"])
    with Client(url, key=keys["acme", "read"]) as reader:
        assert reader.memory(memory_id).describe().memory_id == memory_id
        reader.memory(memory_id).ask(QUERY)
        for forbidden in (
            lambda: reader.write(DOCUMENT),
            lambda: reader.memory(memory_id).delete(),
        ):
            with pytest.raises(AccessDenied, match="role read, and this needs the role write"):
                forbidden()
    allowed: list[tuple[Role, int]] = [("read", 403), ("write", 403), ("admin", 200)]
    for role, status in allowed:
        with as_client(url, keys["acme", role]) as http:
            assert http.get("/metrics").status_code == status
    with Client(url, key=keys["acme", "write"]) as writer:
        writer.memory(memory_id).delete()


def test_every_route_but_probes_needs_a_key(settings: Settings, tiny: Checkpoint, url: str) -> None:
    """Also routes that do not exist yet when this is written."""
    paths = create_app(settings, models=Models([tiny])).openapi()["paths"]
    guarded = [
        (method, path, operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if path not in OPEN
    ]
    assert len(guarded) >= 7
    for key in (None, "sk-1", f"gradmem_{'0' * 16}_{'0' * 64}"):
        with as_client(url, key) as http:
            for method, path, operation in guarded:
                response = http.request(method.upper(), re.sub(r"{[^}]*}", MISSING, path))
                assert response.status_code == 401, (method, path, key)
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert {"401", "403"} <= operation["responses"].keys()
            for path in OPEN:
                assert http.get(path).status_code == 200


def test_a_foreign_id_is_answered_as_a_missing_one(url: str, keys: Keys) -> None:
    memory_id = write(url, keys["acme", "write"])
    page_id = "0" * 16
    with as_client(url, keys["rival", "admin"]) as rival:

        def answers(id_: str) -> list[tuple[int, bytes]]:
            responses = [
                rival.get(f"/memories/{id_}"),
                rival.get(f"/memories/{id_}/prompt-embeds"),
                rival.delete(f"/memories/{id_}/pages/{page_id}"),
                rival.put(f"/memories/{id_}/pages/{page_id}", json={"document": DOCUMENT}),
                rival.delete(f"/memories/{id_}"),
                rival.post("/read", json={"memory_id": id_, "query": QUERY}),
                rival.post("/write", json={"document": DOCUMENT, "append_to": id_}),
            ]
            assert {response.status_code for response in responses} == {404}
            return [(response.status_code, response.content) for response in responses]

        assert answers(memory_id) == answers(MISSING)
    with Client(url, key=keys["acme", "read"]) as owner:
        assert owner.memory(memory_id).describe().memory_id == memory_id


def test_a_wrong_secret_or_a_damaged_record_opens_nothing(
    url: str, store_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0)
    key = keys["acme", "admin"]
    for wrong in (key[:-1] + ("0" if key[-1] != "0" else "1"), key[:-1], key.upper(), key + "0"):
        with as_client(url, wrong) as http:
            assert http.get("/models").status_code == 401
    asyncio.run(change_key(store_url, key, role="root"))
    with as_client(url, key) as http:
        assert http.get("/models").status_code == 401


def test_a_revoked_key_opens_nothing_and_the_last_one_leaves_the_service_closed(
    url: str, store_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0)
    for key in keys.values():
        with as_client(url, key) as http:
            assert http.get("/models").status_code == 200
            asyncio.run(change_key(store_url, key, revoked_at="2026-01-02T03:04:05Z"))
            assert http.get("/models").status_code == 401
    assert httpx.get(f"{url}/models").status_code == 401


def test_the_first_key_closes_a_running_service(
    settings: Settings, tiny: Checkpoint, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0)
    with serving(create_app(settings, models=Models([tiny]))) as url:
        with as_client(url, "sk-anything") as http:  # as clients that always send a key
            assert http.get("/models").status_code == 200
        asyncio.run(store_keys(settings.store_url))
        assert httpx.get(f"{url}/models").status_code == 401


def test_a_service_that_others_reach_never_opens_without_keys(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    with serving(create_app(exposed, models=Models([tiny]))) as url:
        assert httpx.get(f"{url}/models").status_code == 401
    insecure = exposed.model_copy(update={"insecure": True})
    with serving(create_app(insecure, models=Models([tiny]))) as url:
        assert httpx.get(f"{url}/models").status_code == 200


def test_a_key_has_its_requests_of_a_second(
    store_url: str, tiny: Checkpoint, serving: Serving
) -> None:
    """Two services that share Redis share the bucket, too."""
    limit = 3
    key, record = make_key("acme", "read", KeyLimits(requests_per_second=limit))
    asyncio.run(save(store_url, record))
    settings = Settings(store_url=store_url, threads=1)
    with (
        serving(create_app(settings, models=Models([tiny]))) as one,
        serving(create_app(settings, models=Models([tiny]))) as two,
        as_client(one, key) as http,
        as_client(two, key) as other,
    ):
        turns = [http, other] if store_url.startswith("redis") else [http]
        started = time.monotonic()
        answers = [turns[turn % len(turns)].get("/models") for turn in range(8 * limit)]
        seconds = time.monotonic() - started
        taken = [answer.status_code for answer in answers].count(200)
        assert limit <= taken <= limit * (seconds + 1) + 1
        for refused in (answer for answer in answers if answer.status_code != 200):
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:gradmem:problem:rate-limit"
            assert refused.json()["limit"] == limit
            assert refused.headers["Retry-After"] == "1"
        time.sleep(1.1)
        assert http.get("/limits").json()["requests_per_second"] == limit


@given(
    st.lists(st.floats(0, 0.5), min_size=1, max_size=50),
    st.integers(1, 20),
)
def test_a_bucket_never_gives_more_than_flows_in(pauses: list[float], per_second: int) -> None:
    full_at, now, taken = 0.0, 100.0, 0
    for pause in pauses:
        now += pause
        full_at, wait = spend_token(full_at, now, per_second)
        taken += wait == 0
        assert wait <= 1 / per_second + 1e-6
        if wait:
            assert spend_token(full_at, now + wait + 1e-6, per_second)[1] == 0
    assert taken <= per_second * (sum(pauses) + 1) + 1e-3


def test_the_limits_are_those_of_the_settings_and_of_the_key(url: str, keys: Keys) -> None:
    with as_client(url, keys["acme", "read"]) as http:
        limits = http.get("/limits").json()
        assert (limits["tenant"], limits["role"]) == ("acme", "read")
        assert limits["requests_per_second"] is limits["idempotency_keys"] is None
        over = {"memory_id": MISSING, "queries": [QUERY] * (limits["queries"] + 1)}
        assert http.post("/read", json=over).status_code == 422
        content = b" " * (limits["body_bytes"] + 1)
        assert http.post("/read", content=content).json()["limit"] == limits["body_bytes"]


def test_metrics_stay_while_the_store_is_down(
    tiny: Checkpoint,
    serving: Serving,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "CACHE_SECONDS", 0)
    keys: Keys = asyncio.run(store_keys(own_redis.url))
    key, limited = make_key("acme", "admin", KeyLimits(requests_per_second=100))
    asyncio.run(save(own_redis.url, limited))
    known = [keys["acme", "admin"], key]
    settings = Settings(store_url=own_redis.url, threads=1)
    with serving(create_app(settings, models=Models([tiny]))) as url:

        def get(path: str, key: str) -> int:
            with as_client(url, key) as http:
                return http.get(path, timeout=60).status_code

        for each in (*known, keys["acme", "read"]):
            get("/metrics", each)
        own_redis.stop()
        assert [get("/metrics", each) for each in known] == [200, 200]
        assert get("/metrics", keys["acme", "read"]) == 403
        assert get("/metrics", keys["rival", "admin"]) == 503  # it was never seen
        assert get("/metrics", known[0][:-64] + "0" * 64) == 503
        assert get("/memories", known[0]) == 503
        monkeypatch.setattr(access, "OUTAGE_SECONDS", 0)
        assert get("/metrics", known[0]) == 503


async def test_the_store_does_not_hold_the_secret(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memories.db"
    keys = await store_keys(url)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for key in keys.values():
        _, key_id, secret = key.split("_")
        assert key_id.encode() in content
        assert secret.encode() not in content
        assert bytes.fromhex(secret) not in content


async def test_a_blob_of_another_tenant_is_refused(settings: Settings, tiny: Checkpoint) -> None:
    """As if somebody had moved it in the store."""
    app = create_app(settings, models=Models([tiny]))
    memories, store = app.state.gradmem.memories, app.state.gradmem.store
    async with store:
        moved = a_memory(a_blob(), tenant="rival")
        await store.put(moved)
        with pytest.raises(BlobError, match="another tenant"):
            await memories.show("rival", moved.memory_id)


async def test_memories_from_before_tenants_are_those_of_the_default_tenant(
    tmp_path: Path,
) -> None:
    url, memory = f"sqlite:///{tmp_path}/memories.db", a_memory()
    async with create_store(url) as store:
        await store.put(memory)
    with sqlite3.connect(tmp_path / "memories.db") as connection:
        connection.execute("ALTER TABLE memories RENAME COLUMN key TO memory_id")
    connection.close()
    async with create_store(url) as store:
        assert await store.get(DEFAULT_TENANT, memory.memory_id) == memory


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    store = ["--store-url", f"sqlite:///{tmp_path}/memories.db"]

    def run(*words: str) -> str:
        result = CliRunner().invoke(command, ["keys", *words, *store])
        assert result.exit_code == 0, result.output
        return result.stdout

    key = run("create", "--tenant", "acme", "--role", "admin", "--requests-per-second", "5")
    key_id = key.split("_")[1]
    line = run("list").splitlines()[1].split()
    assert line[:3] == [key_id, "acme", "admin"]
    assert line[4:] == ["-", "requests-per-second=5"]
    assert run("revoke", key_id) == ""
    assert "-" not in run("list").splitlines()[1].split()
    [listed] = json.loads(run("list", "--json"))["keys"]
    assert listed["revoked_at"] is not None
    assert {"salt", "digest"}.isdisjoint(listed)
    run("create")
    assert " default  write " in run("list").splitlines()[2]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["keys", "create", "--tenant", "A Co"], 2, "--tenant takes 1 to 63 lower-case letters"),
        *(
            (["keys", "create", "--tenant", name], 2, "names that begin with gradmem- are the")
            for name in (PROBE_TENANT, REGISTER_TENANT)
        ),
        (["keys", "revoke", "0" * 16], 2, "no key has this id"),
        (["serve", "--host", "0.0.0.0"], 1, "0.0.0.0 can be reached by others"),
    ],
)
def test_commands_say_what_is_wrong(
    words: list[str], status: int, message: str, tmp_path: Path
) -> None:
    store = ["--store-url", f"sqlite:///{tmp_path}/memories.db"]
    result = CliRunner().invoke(command, [*words, *store])
    assert result.exit_code == status
    assert f"error: {message}" in result.stderr


def test_a_client_takes_its_key_from_the_environment(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(url) as nobody, pytest.raises(AccessDenied, match="GRADMEM_KEY"):
        nobody.models()
    monkeypatch.setenv("GRADMEM_KEY", keys["acme", "read"])
    with Client(url) as client:
        assert client.models()
    with pytest.raises(InvalidKey):
        Client(url, key="gradmem_\n")


def test_a_key_is_shown_by_no_repr() -> None:
    key, record = make_key("acme", "read", KeyLimits())
    assert record.digest not in repr(record)
    assert record.opens_with(key.split("_")[2])
    assert not record.revoke().opens_with(key.split("_")[2])
    assert ApiKey.model_validate_json(record.model_dump_json()) == record

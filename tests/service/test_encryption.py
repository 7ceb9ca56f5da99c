"""Memories at rest: what the store holds, and what a wrong key, a swap and a rotation do."""

import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from typer.testing import CliRunner, Result

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import BlobError, EncryptionKeyError, StoreUnavailableError
from service.app import create_app
from service.cli import app
from service.encryption import MAGIC, Keyring, check_keys, rekey
from service.models import Models
from service.settings import Settings
from service.stores import Store, StoredMemory, create_store, new_memory_id
from tests.service.conftest import Serving
from tests.service.stored import SECRET, a_memory, soon

pytestmark = pytest.mark.anyio

OLD, NEW, OTHER = "0a" * 32, "1b" * 32, "2c" * 32
DOCUMENT = "!aB:7x!!kk:Q3!|"


@pytest.fixture(params=["sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path}/memories.db"
    if request.param == "redis":
        url = request.getfixturevalue("redis_server")
        async with redis.asyncio.from_url(url) as client:
            await client.flushall()  # of what other tests left
    async with create_store(url) as opened:
        yield opened


async def put(store: Store, keys: Sequence[str], **fields: object) -> StoredMemory:
    memory = a_memory(SECRET, **fields)
    await store.put(Keyring(keys).seal(memory))
    return memory


async def read(store: Store, keys: Sequence[str], memory: StoredMemory) -> bytes:
    return Keyring(keys).open(await store.get(memory.tenant, memory.memory_id))


# A keyring


def test_a_sealed_blob_shows_nothing_and_differs_each_time() -> None:
    keyring, memory = Keyring([OLD]), a_memory(SECRET)
    first, second = keyring.seal(memory), keyring.seal(memory)
    assert first.blob.startswith(MAGIC)
    assert SECRET[:16] not in first.blob
    assert first.blob != second.blob
    assert keyring.open(first) == keyring.open(second) == SECRET


def test_without_keys_and_for_plain_blobs_nothing_changes() -> None:
    memory = a_memory(SECRET)
    assert Keyring().seal(memory) == memory
    assert Keyring().open(memory) == Keyring([OLD]).open(memory) == SECRET


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old = Keyring([OLD]).seal(a_memory(SECRET))
    both = Keyring([NEW, OLD])
    assert both.open(old) == SECRET
    assert Keyring([NEW]).open(both.seal(a_memory(SECRET, memory_id=old.memory_id))) == SECRET


@pytest.mark.parametrize("keys", [[], [OTHER]])
def test_a_missing_key_is_named(keys: list[str]) -> None:
    sealed = Keyring([OLD]).seal(a_memory(SECRET))
    with pytest.raises(EncryptionKeyError, match=Keyring([OLD]).ids[0]) as caught:
        Keyring(keys).open(sealed)
    assert OLD not in str(caught.value)


@pytest.mark.parametrize("owner", [{"memory_id": new_memory_id()}, {"tenant": "other"}])
def test_a_blob_cannot_stand_for_that_of_another(owner: dict[str, str]) -> None:
    keyring = Keyring([OLD])
    swapped = replace(keyring.seal(a_memory(SECRET)), **owner)  # type: ignore[arg-type]
    with pytest.raises(BlobError, match="another id or tenant"):
        keyring.open(swapped)


def test_no_change_of_a_sealed_blob_is_read() -> None:
    keyring, draw = Keyring([OLD]), random.Random(0)
    sealed = keyring.seal(a_memory(SECRET))
    for _ in range(500):
        position = draw.randrange(len(MAGIC), len(sealed.blob))
        changed = bytearray(sealed.blob)
        changed[position] ^= 1 << draw.randrange(8)
        with pytest.raises((BlobError, EncryptionKeyError)):
            keyring.open(replace(sealed, blob=bytes(changed)))
        with pytest.raises(BlobError):
            keyring.open(replace(sealed, blob=sealed.blob[: max(position, 24)]))


@pytest.mark.parametrize("key", ["", "0a", "0g" * 32, "0a" * 33, "sEcReT"])
def test_a_malformed_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(EncryptionKeyError, match="encryption key 2 is not 64") as caught:
        Keyring([OLD, key])
    assert "sEcReT" not in str(caught.value)


# A store


async def test_a_store_is_checked_for_the_keys_it_needs(store: Store) -> None:
    await check_keys(store, Keyring())
    await check_keys(store, Keyring([OLD]))
    await check_keys(store, Keyring([NEW, OLD]))
    for keys in ([], [NEW], [OLD], [OTHER]):
        with pytest.raises(EncryptionKeyError, match="does not have"):
            await check_keys(store, Keyring(keys))
    await check_keys(store, Keyring([OLD, NEW, OTHER]))


async def test_a_register_whose_confirmation_is_lost_stays(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis.asyncio.from_url(redis_server) as client:
        await client.flushall()
    async with create_store(redis_server) as store:
        publish = store._publish

        async def lose_the_reply(*arguments: Any) -> None:
            await publish(*arguments)
            raise StoreUnavailableError("the reply is lost")

        monkeypatch.setattr(store, "_publish", lose_the_reply)
        with pytest.raises(StoreUnavailableError):
            await check_keys(store, Keyring([OLD]))
        monkeypatch.undo()
    async with create_store(redis_server) as store:
        with pytest.raises(EncryptionKeyError, match="does not have"):
            await check_keys(store, Keyring([]))


async def test_a_key_that_is_added_last_everywhere_first_leaves_no_memory_unread(
    store: Store,
) -> None:
    """Services restart one after another, so that two sets of keys are there at a time."""
    for some, others in (([OLD], [OLD, NEW]), ([OLD, NEW], [NEW, OLD])):
        for keys in (some, others):
            await check_keys(store, Keyring(keys))
        for writer, reader in ((some, others), (others, some)):
            assert await read(store, reader, await put(store, writer)) == SECRET


async def test_rekey_encrypts_what_is_old_or_plain_and_frees_the_old_key(store: Store) -> None:
    both = Keyring([NEW, OLD])
    await check_keys(store, Keyring([OLD]))
    expiring = await put(store, [OLD], expires_at=soon(60))
    memories = [
        expiring,
        await put(store, [OLD]),
        await put(store, [], tenant="other"),
        await put(store, [NEW]),
    ]
    result = await rekey(store, both)
    assert (result.encrypted, result.current, result.unreadable) == (3, 1, 0)
    for memory in memories:
        assert await read(store, [NEW], memory) == SECRET
        stored = await store.get(memory.tenant, memory.memory_id)
        assert replace(stored, blob=memory.blob) == memory
    await check_keys(store, Keyring([NEW]))  # the old key is not needed any more
    again = await rekey(store, both)
    assert (again.encrypted, again.current) == (0, 4)


async def test_rekey_goes_on_where_another_ended(store: Store) -> None:
    memories = [await put(store, [OLD]) for _ in range(20)]
    await check_keys(store, Keyring([OLD]))

    class Failing(Keyring):
        left = 7

        def seal(self, memory: StoredMemory) -> StoredMemory:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return super().seal(memory)

    with pytest.raises(KeyboardInterrupt):
        await rekey(store, Failing([NEW, OLD]))
    for memory in memories:
        assert await read(store, [NEW, OLD], memory) == SECRET
    with pytest.raises(EncryptionKeyError):
        await check_keys(store, Keyring([NEW]))
    result = await rekey(store, Keyring([NEW, OLD]))
    assert (result.encrypted, result.current) == (13, 7)
    await check_keys(store, Keyring([NEW]))


async def test_rekey_keeps_the_old_key_for_what_it_cannot_read(store: Store) -> None:
    await check_keys(store, Keyring([OTHER]))
    unreadable = await put(store, [OTHER])
    await put(store, [])
    result = await rekey(store, Keyring([NEW]))
    assert (result.encrypted, result.unreadable) == (1, 1)
    assert await read(store, [OTHER], unreadable) == SECRET
    with pytest.raises(EncryptionKeyError):
        await check_keys(store, Keyring([NEW]))


# The service and the commands


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return settings.model_copy(update={"encryption_keys": [OLD]})


def test_a_service_writes_what_only_its_key_can_read(
    keyed: Settings, settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with serving(create_app(keyed, models=Models([tiny]))) as url:
        memory_id = httpx.post(f"{url}/write", json={"document": DOCUMENT}).json()["memory_id"]
        body = {"memory_id": memory_id, "query": "?!kk:"}
        assert httpx.post(f"{url}/read", json=body).is_success
    file = settings.store_url.removeprefix("sqlite:///")
    query = "SELECT record FROM memories WHERE key = ?"
    ((record,),) = sqlite3.connect(file).execute(query, (memory_id,)).fetchall()
    assert MAGIC in record
    assert b"fingerprint" not in record
    with serving(create_app(settings, models=Models([tiny]))) as url:
        refused = httpx.post(f"{url}/read", json=body)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:gradmem:problem:encryption-key"
        assert Keyring([OLD]).ids[0] in refused.json()["detail"]


def run(*command: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(app, command)


def test_commands_name_what_is_wrong_with_keys(tmp_path: Path, tiny_folder: Path) -> None:
    environment = {
        "GRADMEM_STORE_URL": f"sqlite:///{tmp_path}/memories.db",
        "GRADMEM_CHECKPOINTS": str(tiny_folder),
        "GRADMEM_PORT": "0",
    }
    refused = run("rekey", **environment)
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: there is no key; set GRADMEM_ENCRYPTION_KEYS or GRADMEM_ENCRYPTION_KEY_FILE\n",
    )
    file = tmp_path / "keys"
    for content in (None, "\n", "sEcReT\n"):
        if content is not None:
            file.write_text(content)
        for command in ("serve", "rekey"):
            refused = run(command, GRADMEM_ENCRYPTION_KEY_FILE=str(file), **environment)
            assert refused.exit_code == 2
            assert refused.stderr.startswith("error: ")
            assert "sEcReT" not in refused.stderr
    file.write_text(f"{NEW}\n{OLD}\n")
    done = run("rekey", GRADMEM_ENCRYPTION_KEY_FILE=str(file), **environment)
    assert (done.exit_code, done.stdout) == (
        0,
        "encrypted 0 memories; 0 had the key already\n",
    )
    refused = run("serve", GRADMEM_ENCRYPTION_KEYS=OLD, **environment)
    assert refused.exit_code == 2
    assert f"the key {Keyring([NEW]).ids[0]}, which the service does not have" in refused.stderr

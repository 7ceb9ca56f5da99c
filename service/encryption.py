"""Encrypt the blobs of memories before a store gets them (AES-256-GCM), and exchange the keys.

    magic (4) | id of the key (8) | nonce (12) | encrypted blob with its tag (16)

Tenant and id of the memory are authenticated with it, so that one record cannot stand for another.
Stores need not know: to them a blob is bytes.
"""

import asyncio
import hashlib
import os
import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gradmem_core.errors import BlobError, EncryptionKeyError, MemoryNotFoundError
from gradmem_core.tenants import OWN_PREFIX
from service.stores import Store, StoredMemory

MAGIC = b"GMX1"
"""Start of an encrypted blob. A plain one begins with the size of its description, which would be
half a terabyte with these bytes."""
HEAD = struct.Struct(">4s8s12s")
NONCE_BYTES = 12
KEY = re.compile(r"[0-9a-fA-F]{64}")

REGISTER_TENANT = f"{OWN_PREFIX}keys"
REGISTER_ID = "0" * 32
"""Tenant and id of the register: a memory without a blob whose metadata names the keys with which
memories in the store may be encrypted. By it a service without one of them notices at the start."""


class Keyring:
    """Keys for the blobs of memories: the first encrypts, all decrypt; with none, blobs stay plain.

    Args:
        keys: Keys of 64 hexadecimal digits.

    Raises:
        EncryptionKeyError: A key has another form. The message does not repeat it.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        for place, key in enumerate(keys, start=1):
            if not KEY.fullmatch(key):
                raise EncryptionKeyError(
                    f"encryption key {place} is not 64 hexadecimal digits; make one with"
                    " `openssl rand -hex 32`"
                )
            self._add(bytes.fromhex(key))

    @property
    def ids(self) -> list[str]:
        """Ids of the keys, which are no secrets, the first key's first."""
        return [key_id.hex() for key_id in self._ciphers]

    def encrypt(self, content: bytes, owner: str) -> bytes:
        """Return bytes encrypted by the first key; without keys as they are.

        Args:
            content: The bytes.
            owner: Whatever they belong to, which is authenticated with them.
        """
        if not self._ciphers:
            return content
        key_id, cipher = next(iter(self._ciphers.items()))
        nonce = os.urandom(NONCE_BYTES)
        return HEAD.pack(MAGIC, key_id, nonce) + cipher.encrypt(nonce, content, owner.encode())

    def decrypt(self, content: bytes, owner: str) -> bytes:
        """Return what was encrypted; what was stored plain as it is.

        Raises:
            EncryptionKeyError: The key is missing.
            BlobError: The bytes were changed, or belong to another owner.
        """
        if not _is_sealed(content):
            return content
        key_id, nonce = _split_head(content)
        if key_id not in self._ciphers:
            raise _missing_keys([key_id.hex()])
        try:
            return self._ciphers[key_id].decrypt(nonce, content[HEAD.size :], owner.encode())
        except InvalidTag as error:
            raise BlobError(
                "what is stored was changed, or belongs to another id or tenant; write the document"
                " again"
            ) from error

    def seal(self, memory: StoredMemory) -> StoredMemory:
        """Return a memory with its blob encrypted by the first key; without keys as it is."""
        return replace(memory, blob=self.encrypt(memory.blob, _owner(memory)))

    def open(self, memory: StoredMemory) -> bytes:
        """Return the blob of a memory from a store; one that was stored plain as it is.

        Raises:
            EncryptionKeyError: The key is missing.
            BlobError: The blob was changed, or is that of another memory.
        """
        return self.decrypt(memory.blob, _owner(memory))

    def is_current(self, memory: StoredMemory) -> bool:
        """Return true if the blob of a memory is encrypted by the first key."""
        current = next(iter(self._ciphers), None)
        return _is_sealed(memory.blob) and _split_head(memory.blob)[0] == current

    def _add(self, key: bytes) -> None:
        self._ciphers[hashlib.sha256(b"gradmem key" + key).digest()[:8]] = AESGCM(key)


@dataclass
class Rekeyed:
    """The result of `rekey`."""

    encrypted: int = 0
    "Memories encrypted anew."
    current: int = 0
    "Memories that the first key had encrypted already."
    unreadable: int = 0
    "Memories that are damaged, or whose key is missing."


async def check_keys(store: Store, keyring: Keyring) -> None:
    """Check that the keys of all memories in a store are there, and register the first key.

    Raises:
        EncryptionKeyError: A key is missing.
        StoreUnavailableError: The store cannot be reached.
    """
    registered = await refuse_missing_keys(store, keyring)
    if keyring.ids and keyring.ids[0] not in registered:
        await _change_register(store, add=keyring.ids[0])


async def refuse_missing_keys(store: Store, keyring: Keyring) -> set[str]:
    """Return the ids of the keys of all memories in a store, which have to be there.

    Raises:
        EncryptionKeyError: A key is missing.
        StoreUnavailableError: The store cannot be reached.
    """
    registered = await _read_register(store)
    missing = sorted(registered - set(keyring.ids))
    if missing:
        raise _missing_keys(missing)
    return registered


async def rekey(store: Store, keyring: Keyring) -> Rekeyed:
    """Encrypt every memory in a store that the first key has not encrypted yet.

    May be interrupted and repeated at any time, and run beside services. If all memories could be
    read, the other keys are not needed any more.

    Raises:
        EncryptionKeyError: There is no key.
        StoreUnavailableError: The store cannot be reached; what is done stays done.
    """
    if not keyring.ids:
        raise EncryptionKeyError(
            "there is no key; set GRADMEM_ENCRYPTION_KEYS or GRADMEM_ENCRYPTION_KEY_FILE"
        )
    older = await _read_register(store) - {keyring.ids[0]}
    await _change_register(store, add=keyring.ids[0])
    result = Rekeyed()
    async for tenant, memory_id in store.scan():
        if (tenant, memory_id) == (REGISTER_TENANT, REGISTER_ID):
            continue
        try:
            changed = await _rekey_memory(store, keyring, tenant, memory_id)
        except MemoryNotFoundError:  # deleted or expired meanwhile
            continue
        except (BlobError, EncryptionKeyError):
            result.unreadable += 1
            continue
        result.encrypted += changed
        result.current += not changed
    if not result.unreadable:
        await _change_register(store, add=keyring.ids[0], remove=older)
    return result


async def copy_register(source: Store, target: Store) -> None:
    """Register the keys of one store in another, which gets copies of encrypted memories.

    Raises:
        StoreUnavailableError: A store cannot be reached.
    """
    for key_id in sorted(await _read_register(source) - await _read_register(target)):
        await _change_register(target, add=key_id)


async def _rekey_memory(store: Store, keyring: Keyring, tenant: str, memory_id: str) -> bool:
    """Encrypt a memory anew; return False where the first key has encrypted it already."""
    while True:
        old = await store.get(tenant, memory_id)
        if keyring.is_current(old):
            return False
        new = await asyncio.to_thread(_reseal, keyring, old)
        if await store.replace(old, new):
            return True


def _reseal(keyring: Keyring, memory: StoredMemory) -> StoredMemory:
    return keyring.seal(replace(memory, blob=keyring.open(memory)))


async def _read_register(store: Store) -> set[str]:
    try:
        return set((await store.get(REGISTER_TENANT, REGISTER_ID)).metadata)
    except MemoryNotFoundError:
        return set()


async def _change_register(store: Store, *, add: str, remove: Collection[str] = ()) -> None:
    """Add a key to the register and remove others, whatever others change at the same time."""
    done = False
    while not done:
        try:
            old = await store.get(REGISTER_TENANT, REGISTER_ID)
            done = await store.replace(old, _register({*old.metadata, add} - {*remove}))
        except MemoryNotFoundError:
            done = await store.put_once(_register({add}))


def _register(key_ids: Collection[str]) -> StoredMemory:
    return StoredMemory(
        memory_id=REGISTER_ID,
        tenant=REGISTER_TENANT,
        model="keys",
        blob=b"",
        metadata=dict.fromkeys(sorted(key_ids), ""),
        created_at=datetime(1970, 1, 1, tzinfo=UTC),
    )


def _is_sealed(blob: bytes) -> bool:
    return blob.startswith(MAGIC) and len(blob) >= HEAD.size


def _split_head(blob: bytes) -> tuple[bytes, bytes]:
    """Return the key's id and the nonce of an encrypted blob."""
    _, key_id, nonce = HEAD.unpack_from(blob)
    return key_id, nonce


def _owner(memory: StoredMemory) -> str:
    return f"{memory.tenant}:{memory.memory_id}"


def _missing_keys(key_ids: Sequence[str]) -> EncryptionKeyError:
    return EncryptionKeyError(
        f"memories in the store are encrypted with the key {', '.join(key_ids)}, which the service"
        " does not have; add it to GRADMEM_ENCRYPTION_KEYS or to the file of keys"
    )

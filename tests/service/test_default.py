"""The service as it is by default, with the checkpoint for lists of records that it bundles."""

from collections.abc import Iterator

import pytest

from service.app import create_app
from service.client import Client
from service.settings import Settings
from tests.service.conftest import Serving
from tests.service.test_cli import Gradmem

CONTACTS = "Alice: +49 30 5550123\nBob: bob@example.org\nDoor code: 4711#\n"


@pytest.fixture(scope="module")
def gradmem(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gradmem]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    with serving(create_app(Settings(store_url=store, threads=1))) as url:
        yield Gradmem(url)


def test_a_key_that_is_not_there_is_said_to_be_missing(gradmem: Gradmem) -> None:
    memory = gradmem.written(stdin=CONTACTS.encode())
    assert (memory.model, memory.records) == ("records", 3)
    result = gradmem("read", memory.memory_id, "door code", "Carol", " BOB:")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == ["4711#", "", "bob@example.org"]
    assert result.stderr == "not in memory: Carol\n"
    with Client(gradmem.url) as client:
        there, missing = client.read_many(memory.memory_id, ["door code", "Carol"])
    assert (there.found, there.answer) == (True, "4711#")
    assert (missing.found, missing.answer) == (False, None)


def test_records_that_are_appended_are_found(gradmem: Gradmem) -> None:
    memory = gradmem.written(stdin=CONTACTS.encode())
    gradmem.written("--append-to", memory.memory_id, stdin=b"Taxi: 22 44 66\nVet: Dr. Silva\n")
    assert gradmem.output("read", memory.memory_id, "taxi", "Door code").splitlines() == [
        "22 44 66",
        "4711#",
    ]

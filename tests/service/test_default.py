"""The service with its default checkpoint for texts, and the bundled one for lists beside it.

The first run on a machine imports the backbone into GRADMEM_CACHE.
"""

import os
from collections.abc import Iterator

import pytest

from service.app import create_app
from service.client import Client
from service.settings import Settings
from tests.service.conftest import Serving
from tests.service.test_cli import Gradmem

CHECKPOINTS = ["prose", "records"]
TEXT = "# Bakery\n\nMira Okonjo runs the bakery on Elm Street. It opens at six.\n"
MORE = "The mill at Velhagen stands on the left bank of the Orsa. Its director was Anselm Tvedt.\n"
CONTACTS = "Alice: +49 30 5550123\nBob: bob@example.org\nDoor code: 4711#\n"


@pytest.fixture(scope="module")
def gradmem(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gradmem]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    with serving(create_app(Settings(checkpoints=CHECKPOINTS, store_url=store, threads=1))) as url:
        yield Gradmem(url)


def test_texts_are_served_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("GRADMEM_"):
            monkeypatch.delenv(name)
    assert (Settings().checkpoints, Settings().blob_dtype) == (["prose"], "int8")


@pytest.mark.slow
def test_a_text_is_written_and_its_own_example_is_answered(gradmem: Gradmem) -> None:
    with Client(gradmem.url) as client:
        model = client.models()[0]
        memory = client.write(model.example_document)
        answer = memory.ask(model.example_query)
    assert (memory.info.model, memory.info.dtype) == ("prose", "int8")
    assert len(memory.info.pages) == 1
    assert memory.info.read_back is not None
    assert (answer.found, answer.answer, answer.reason) == (True, model.example_answer, None)
    assert 0 < answer.confidence <= 1


@pytest.mark.slow
def test_pages_of_a_text_are_appended_read_and_deleted(gradmem: Gradmem) -> None:
    memory = gradmem.write("--no-verify", "--steps", "1", stdin=TEXT.encode())
    both = gradmem.write(
        *("--no-verify", "--steps", "1", "--append-to", memory.memory_id), stdin=MORE.encode()
    )
    assert [page.first_line for page in both.pages] == [1, 1]
    with Client(gradmem.url) as client:
        opened = client.memory(memory.memory_id)
        answers = opened.ask_many(["Who was the director of the mill?", "What does Mira run?"])
        assert {answer.page_id for answer in answers} <= {page.page_id for page in both.pages}
        opened.delete_page(both.pages[0].page_id)
        answer = opened.ask("Who was the director of the mill?")
    assert answer.page_id == both.pages[1].page_id


def test_a_key_that_is_not_in_memory_is_reported(gradmem: Gradmem) -> None:
    memory = gradmem.write("--model", "records", stdin=CONTACTS.encode())
    assert (memory.model, memory.records) == ("records", 3)
    result = gradmem("read", memory.memory_id, "door code", "Carol", " BOB:")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == ["4711#", "", "bob@example.org"]
    assert result.stderr == "not in memory: Carol\n"
    with Client(gradmem.url) as client:
        present, missing = client.memory(memory.memory_id).ask_many(["door code", "Carol"])
    assert (present.found, present.answer) == (True, "4711#")
    assert (missing.found, missing.answer) == (False, None)


def test_records_that_are_appended_are_found(gradmem: Gradmem) -> None:
    memory = gradmem.write("--model", "records", stdin=CONTACTS.encode())
    gradmem.write("--append-to", memory.memory_id, stdin=b"Taxi: 22 44 66\nVet: Dr. Silva\n")
    assert gradmem.output("read", memory.memory_id, "taxi", "Door code").splitlines() == [
        "22 44 66",
        "4711#",
    ]

"""Answers and missing answers, with a handmade model whose answers are known.

Its attention is uniform and passes on one number of a page's vectors. Above 0 the answer is `x`,
below 0 it is that the key is absent; the further from 0, the more confident.
"""

import asyncio
import json
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from torch import Tensor
from typer.testing import CliRunner

from gradmem_core.backbone import Backbone
from gradmem_core.blob import BlobInfo, PageInfo, pack
from gradmem_core.checkpoints.calibration import Calibration, Logistic
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import ABSENT, QUERY_MARK, Tokenizer
from service.app import create_app
from service.cli import app
from service.client import AsyncClient, Client
from service.models import Models
from service.settings import Settings
from service.stores import StoredMemory, create_store, new_memory_id
from tests.lists import RECORDS
from tests.service.conftest import running

WIDTH, VECTORS = 32, 4
CONSTANT, SIGNAL, UNUSED = 0, 1, 2
"Elements of a vector: 1 in every token, the number that is passed on, and 0 in every token."
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SURE, LESS_SURE, NOT_SURE = 0.5, 0.4, 0.02
"Signals of a page: the first two give nearly equal confidences."

Page = tuple[float, str]
"Its signal, and the letter of its document."
Stored = Callable[..., list[str]]
"Stores a memory; returns its id and those of its pages."


@pytest.fixture(scope="module")
def handmade() -> Checkpoint:
    tokenizer = Tokenizer.from_characters(string.ascii_letters + " \t\n" + QUERY_MARK + ABSENT)
    settings = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 64,
    }
    backbone = Backbone.from_config(settings, seed=0)
    weights = dict(backbone.causal_lm.named_parameters())
    absent, known = tokenizer.require_ids([ABSENT, "x"])
    with torch.no_grad():
        for name, weight in weights.items():
            weight.fill_(1.0 if "norm" in name else 0.0)
        weights["model.embed_tokens.weight"][:, CONSTANT] = 1
        weights["model.layers.0.self_attn.v_proj.weight"][SIGNAL, SIGNAL] = 1
        weights["model.layers.0.self_attn.o_proj.weight"][SIGNAL, SIGNAL] = 1
        head = weights["lm_head.weight"]
        head[[absent, known], CONSTANT] = 20
        head[absent, SIGNAL], head[known, SIGNAL] = -0.3, 0.3
    config = MemoryConfig(
        memory_tokens=VECTORS,
        write_steps=1,
        max_write_steps=1,
        inner_learning_rate=0.1,
        max_context_tokens=32,
        max_query_tokens=16,
        max_answer_tokens=8,
    )
    return Checkpoint(
        name="handmade",
        fingerprint="f" * 64,
        model=MemoryModel(backbone, config, seed=0).requires_grad_(False).eval(),
        tokenizer=tokenizer,
        task=RECORDS,
        stop_ids=tokenizer.require_ids(["\n"]),
    )


def make_vectors(signal: float) -> Tensor:
    """Return vectors of length 1 that carry a signal."""
    page = torch.zeros(VECTORS, WIDTH)
    page[:, SIGNAL], page[:, UNUSED] = signal, (1 - signal**2) ** 0.5
    return page


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"


@pytest.fixture(scope="module")
def url(handmade: Checkpoint, store_url: str) -> Iterator[str]:
    settings = Settings(store_url=store_url, threads=1)
    with running(create_app(settings, models=Models([handmade]))) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def stored(store_url: str) -> Stored:

    def put(*pages: Page, **fields: object) -> list[str]:
        infos = tuple(
            PageInfo(
                page_id=f"{number:016x}",
                write_steps=1,
                tokens=4,
                records=1,
                document_sha256=document.lower() * 64,
                losses=(2.0, 1.0),
                write_accuracy=0.5,
                # The case of the letter is the time at which the document was written.
                created_at=NOW + timedelta(days=document.isupper()),
            )
            for number, (_, document) in enumerate(pages)
        )
        blob = pack(
            torch.stack([make_vectors(signal) for signal, _ in pages]),
            BlobInfo(fingerprint="f" * 64, pages=infos),
        )
        memory = StoredMemory(
            memory_id=new_memory_id(), model="handmade", blob=blob, metadata={}, created_at=NOW
        )

        async def store_it() -> None:
            async with create_store(store_url) as store:
                await store.put(replace(memory, **fields))  # type: ignore[arg-type]

        asyncio.run(store_it())
        return [memory.memory_id, *(info.page_id for info in infos)]

    return put


def read(url: str, memory_id: str, **fields: object) -> dict[str, Any]:
    body = {"memory_id": memory_id, "query": "a", "max_new_tokens": 1, **fields}
    response = httpx.post(f"{url}/read", json=body)
    assert response.status_code == 200, response.text
    [answer] = response.json()["answers"]
    result: dict[str, Any] = answer
    return result


def stream(url: str, memory_id: str) -> list[tuple[str, dict[str, Any]]]:
    body = {"memory_id": memory_id, "query": "a", "stream": True}
    blocks = httpx.post(f"{url}/read", json=body).text.strip().split("\n\n")
    lines = [block.split("\n") for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data[6:])) for name, data in lines]


def test_a_known_key_is_found(url: str, stored: Stored) -> None:
    memory_id, page = stored((SURE, "a"))
    answer = read(url, memory_id)
    assert (answer["found"], answer["answer"], answer["page_id"]) == (True, "x", page)
    assert answer["reason"] is None
    assert 0.9 < answer["confidence"] < 1


def test_an_absent_key_is_null(url: str, stored: Stored) -> None:
    memory_id, page = stored((-SURE, "a"))
    answer = read(url, memory_id)
    assert (answer["found"], answer["answer"], answer["page_id"]) == (False, None, page)
    assert answer["reason"] == "not stated"
    assert 0.9 < answer["confidence"] < 1
    assert answer["tokens"] == 1


@pytest.mark.parametrize(
    ("pages", "answers"),
    [
        ([(-SURE, "a"), (NOT_SURE, "a"), (-SURE, "a")], 1),
        ([(-SURE, "a"), (SURE, "a"), (NOT_SURE, "a")], 1),
        ([(SURE, "a"), (LESS_SURE, "a")], 0),
        ([(SURE, "a"), (LESS_SURE, "b")], 1),
        ([(SURE, "a"), (NOT_SURE, "b")], 0),
        ([(SURE, "a"), (LESS_SURE, "b"), (-SURE, "c")], 1),
    ],
)
def test_the_right_page_answers(url: str, stored: Stored, pages: list[Page], answers: int) -> None:
    memory_id, *page_ids = stored(*pages)
    answer = read(url, memory_id)
    assert (answer["found"], answer["page_id"]) == (True, page_ids[answers])


def test_the_least_confident_page_reports_an_absent_key(url: str, stored: Stored) -> None:
    memory_id, *pages = stored((-SURE, "a"), (-NOT_SURE, "a"), (-LESS_SURE, "b"))
    answer = read(url, memory_id)
    assert (answer["found"], answer["answer"], answer["page_id"]) == (False, None, pages[1])


def test_a_document_written_again_revokes_what_came_between(url: str, stored: Stored) -> None:
    memory_id, *pages = stored((SURE, "a"), (LESS_SURE, "b"), (LESS_SURE, "A"))
    assert read(url, memory_id)["page_id"] == pages[2]


def test_a_deleted_page_no_longer_answers(url: str, stored: Stored) -> None:
    memory_id, absent, present = stored((-SURE, "a"), (SURE, "a"))
    assert read(url, memory_id)["found"] is True
    path = f"{url}/memories/{memory_id}/pages/{present}"
    assert httpx.delete(path).status_code == 204
    answer = read(url, memory_id)
    assert (answer["found"], answer["page_id"]) == (False, absent)
    assert answer["confidence"] > 0.9


@pytest.mark.parametrize(
    ("signal", "content"),
    [
        (SURE, "x"),
        (-SURE, "The memory has no answer to this question."),
        (NOT_SURE, "The memory is not confident enough to answer this question."),
    ],
)
def test_a_chat_says_plainly_that_nothing_was_found(
    url: str, stored: Stored, signal: float, content: str
) -> None:
    memory_id, _ = stored((signal, "a"))
    answer = read(url, memory_id, min_confidence=0.9)
    with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        completion = client.chat.completions.create(
            model=f"handmade:{memory_id}",
            messages=[{"role": "user", "content": "a"}],
            max_tokens=1,
            extra_body={"min_confidence": 0.9},
        )
    (choice,) = completion.choices
    assert choice.message.content == content
    details = (completion.model_extra or {})["gradmem"]
    assert details["found"] == answer["found"] == (content == "x")
    assert details["reason"] == answer["reason"]
    assert choice.finish_reason == ("length" if details["found"] else "stop")


def test_a_stream_hides_the_absence_mark(url: str, stored: Stored) -> None:
    memory_id, _ = stored((-SURE, "a"))
    [(name, result)] = stream(url, memory_id)
    assert name == "result"
    assert result["answers"][0]["answer"] is None


def test_a_stream_of_several_pages_has_the_answer_of_one(url: str, stored: Stored) -> None:
    memory_id, *_ = stored((-SURE, "a"), (SURE, "a"))
    *tokens, (_, result) = stream(url, memory_id)
    assert [(name, event["query"]) for name, event in tokens] == [("token", 0)] * 8
    assert "".join(event["text"] for _, event in tokens) == "x" * 8
    assert result["answers"][0]["answer"] == "x" * 8


def test_an_expired_memory_cannot_be_changed(url: str, stored: Stored) -> None:
    memory_id, page = stored((SURE, "a"), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    append = httpx.post(f"{url}/write", json={"document": "a: b", "append_to": memory_id})
    delete = httpx.delete(f"{url}/memories/{memory_id}/pages/{page}")
    for response in (append, delete):
        assert response.status_code == 404
        assert response.json()["type"] == "urn:gradmem:problem:memory-not-found"


# Confidence

CALIBRATION = Calibration(
    page=Logistic(bias=0.0),
    answer=Logistic(bias=0.0, answer=1.0),  # the probability p of one token becomes p / (1 + p)
    absence=Logistic(bias=1.0),
    min_confidence=0.45,
)


def test_an_answer_below_the_threshold_is_not_found(url: str, stored: Stored) -> None:
    memory_id, page = stored((SURE, "a"))
    sure = read(url, memory_id, min_confidence=0.9)
    assert (sure["found"], sure["reason"]) == (True, None)
    answer = read(url, memory_id, min_confidence=1.0)
    assert answer == sure | {"found": False, "answer": None, "reason": "below threshold"}
    assert answer["page_id"] == page


def test_the_threshold_does_not_apply_to_an_absent_key(url: str, stored: Stored) -> None:
    memory_id, _ = stored((-NOT_SURE, "a"))
    assert read(url, memory_id, min_confidence=1.0)["reason"] == "not stated"


@pytest.mark.parametrize("value", [-0.1, 1.1, "x"])
def test_a_threshold_out_of_range_is_refused(url: str, stored: Stored, value: object) -> None:
    memory_id, _ = stored((SURE, "a"))
    body = {"memory_id": memory_id, "query": "a", "min_confidence": value}
    assert httpx.post(f"{url}/read", json=body).status_code == 422


@pytest.fixture(scope="module")
def calibrated_url(handmade: Checkpoint, store_url: str) -> Iterator[str]:
    """Base URL of a service with the same checkpoint, calibrated, on the same store."""
    models = Models([replace(handmade, calibration=CALIBRATION)])
    with running(create_app(Settings(store_url=store_url, threads=1), models=models)) as base_url:
        yield base_url


def test_a_calibration_sets_confidence_and_threshold(
    url: str, calibrated_url: str, stored: Stored
) -> None:
    memory_id, *_ = stored((SURE, "a"))
    probability = read(url, memory_id)["confidence"]
    answer = read(calibrated_url, memory_id)
    assert answer["confidence"] == pytest.approx(probability / (1 + probability), abs=1e-6)
    assert (answer["found"], answer["reason"]) == (True, None)
    (unsure, *_) = stored((NOT_SURE, "a"))
    assert read(calibrated_url, unsure)["reason"] == "below threshold"
    assert read(calibrated_url, unsure, min_confidence=0.0)["found"] is True
    (absent, *_) = stored((-SURE, "a"))
    answer = read(calibrated_url, absent)
    assert (answer["reason"], answer["found"]) == ("not stated", False)
    assert answer["confidence"] == pytest.approx(0.7310586)


# Command line and client


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_line_reports_an_absent_key(
    url: str, stored: Stored, options: list[str]
) -> None:
    memory_id, _ = stored((-SURE, "a"))
    command = ["read", memory_id, "Door code", "a", "--url", url, *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert result.stderr.splitlines() == ["not in memory: Door code", "not in memory: a"]
    if options:
        answers = json.loads(result.stdout)["answers"]
        assert [(answer["found"], answer["answer"]) for answer in answers] == [(False, None)] * 2
    else:
        assert result.stdout == "\n\n"


def test_the_command_line_succeeds_where_all_keys_are_found(url: str, stored: Stored) -> None:
    memory_id, *_ = stored((-SURE, "a"), (SURE, "a"))
    command = ["read", memory_id, "a", "b", "--max-new-tokens", "2", "--url", url]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "xx\nxx\n", "")


@pytest.mark.parametrize(
    ("name", "options", "answer"), [("read", ["--max-new-tokens", "1"], "x"), ("ask", [], "x" * 8)]
)
def test_the_command_line_reports_an_answer_below_the_threshold(
    url: str, stored: Stored, name: str, options: list[str], answer: str
) -> None:
    memory_id, _ = stored((SURE, "a"))
    command = [name, memory_id, "a", *options, "--url", url]
    result = CliRunner().invoke(app, [*command, "--min-confidence", "1"])
    assert (result.exit_code, result.stdout) == (3, "\n")
    assert result.stderr == "not confident enough: a\n"
    assert CliRunner().invoke(app, [*command, "--min-confidence", "0"]).stdout == f"{answer}\n"


def test_the_client_reports_an_absent_key(url: str, stored: Stored) -> None:
    memory_id, page = stored((-SURE, "a"))
    with Client(url) as client:
        answer = client.memory(memory_id).ask("a")
    assert (answer.found, answer.answer, answer.page_id) == (False, None, page)


@pytest.mark.anyio
async def test_the_async_client_reports_an_absent_key(url: str, stored: Stored) -> None:
    memory_id, page = await asyncio.to_thread(stored, (-SURE, "a"))
    async with AsyncClient(url) as client:
        answer = await client.memory(memory_id).ask("a")
    assert (answer.found, answer.answer, answer.page_id) == (False, None, page)

"""OpenAI's own client against a real uvicorn, and errors in the form that it reads."""

import asyncio
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.keys import KeyLimits, make_key
from service.models import Models
from service.settings import Settings
from service.stores import create_store
from tests.pretrained import text_checkpoint
from tests.service.conftest import Serving

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERY = "?!kk:"
UNKNOWN_ID = "0" * 32
KEY = "unused"


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{base_url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def memory(base_url: str) -> str:
    response = httpx.post(f"{base_url}/write", json={"document": DOCUMENT}, timeout=30)
    memory_id: str = response.json()["memory_id"]
    return memory_id


def read(base_url: str, memory: str, **fields: object) -> dict[str, Any]:
    """Return the answer of `POST /read`."""
    body = {"memory_id": memory, "query": QUERY, **fields}
    answer: dict[str, Any] = httpx.post(f"{base_url}/read", json=body).json()["answers"][0]
    return answer


def ask(client: OpenAI, memory: str, **fields: Any) -> ChatCompletion:
    extra = {"memory": memory, **fields.pop("extra_body", {})}
    completion: ChatCompletion = client.chat.completions.create(
        **{"model": "tiny", "messages": [{"role": "user", "content": QUERY}], **fields},
        extra_body=extra,
    )
    return completion


def details(completion: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    """Return GradMem's own field of a completion."""
    fields: dict[str, Any] = (completion.model_extra or {})["gradmem"]
    return fields


def test_an_answer_is_that_of_read(
    client: OpenAI, base_url: str, memory: str, tiny: Checkpoint
) -> None:
    answer = read(base_url, memory)
    completion = ask(client, memory)
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == answer["answer"]
    assert choice.finish_reason == answer["finish_reason"]
    assert completion.object == "chat.completion"
    assert completion.model == "tiny"
    assert completion.system_fingerprint == tiny.fingerprint
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == answer["query_tokens"] == len(QUERY)
    assert completion.usage.completion_tokens == answer["tokens"]
    assert completion.usage.total_tokens == answer["query_tokens"] + answer["tokens"]
    assert details(completion) == {
        "memory_id": memory,
        "found": True,
        "reason": None,
        "confidence": pytest.approx(answer["confidence"], rel=1e-4),
        "page_id": answer["page_id"],
        "ignored_messages": 0,
    }


def test_the_model_can_name_the_memory(client: OpenAI, memory: str) -> None:
    completion = client.chat.completions.create(
        model=f"tiny:{memory}", messages=[{"role": "user", "content": QUERY}]
    )
    assert completion.choices[0].message == ask(client, memory).choices[0].message
    assert completion.model == f"tiny:{memory}"


def test_a_stream_carries_the_same_answer(client: OpenAI, memory: str) -> None:
    whole = ask(client, memory)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": QUERY}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"memory": memory},
        )
    )
    *contents, end, usage = chunks
    deltas = [chunk.choices[0].delta for chunk in contents]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert end.choices[0].finish_reason == whole.choices[0].finish_reason
    assert end.choices[0].delta.content is None
    assert details(end) == details(whole)
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_is_events_that_end_with_done(base_url: str, memory: str) -> None:
    body = {
        "model": f"tiny:{memory}",
        "messages": [{"role": "user", "content": QUERY}],
        "stream": True,
    }
    response = httpx.post(f"{base_url}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    *events, done = response.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    objects = [json.loads(event.removeprefix("data: "))["object"] for event in events]
    assert objects == ["chat.completion.chunk"] * 2


def test_the_asynchronous_client_reads_both_forms(
    client: OpenAI, base_url: str, memory: str
) -> None:
    async def ask_twice() -> tuple[str | None, str]:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key=KEY) as awaited:
            whole = await awaited.chat.completions.create(
                model=f"tiny:{memory}", messages=[{"role": "user", "content": QUERY}]
            )
            parts = await awaited.chat.completions.create(
                model=f"tiny:{memory}", messages=[{"role": "user", "content": QUERY}], stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in parts])
            return whole.choices[0].message.content, text

    content = ask(client, memory).choices[0].message.content
    assert asyncio.run(ask_twice()) == (content, content)


def test_models_are_the_served_checkpoints(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4")
    assert refused.value.code == "model_not_found"


def test_the_last_user_message_is_the_question(client: OpenAI, memory: str) -> None:
    expected = ask(client, memory)
    conversation = [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": "?!aB:"},
        {"role": "assistant", "content": None, "refusal": "no", "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": QUERY}], "name": "Ada"},
    ]
    completion = ask(client, memory, messages=conversation)
    assert completion.choices == expected.choices
    assert completion.usage == expected.usage
    assert details(completion)["ignored_messages"] == 3


def test_sampling_is_that_of_read(client: OpenAI, base_url: str, memory: str) -> None:
    options = {"temperature": 5.0, "top_p": 0.9}
    drawn = [
        ask(client, memory, seed=seed, **options).choices[0].message.content for seed in (1, 2, 1)
    ]
    assert drawn == [read(base_url, memory, seed=seed, **options)["answer"] for seed in (1, 2, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_has_at_most_the_tokens_asked_for(
    client: OpenAI, base_url: str, memory: str, name: str
) -> None:
    short = ask(client, memory, **{name: 2})
    assert short.choices[0].message.content == read(base_url, memory, max_new_tokens=2)["answer"]
    assert short.choices[0].finish_reason == "length"
    longest = ask(client, memory, **{name: 4096})
    assert longest.choices == ask(client, memory).choices


def test_an_answer_ends_before_a_stop_sequence(client: OpenAI, memory: str) -> None:
    text = ask(client, memory).choices[0].message.content or ""
    assert len(text) > 3
    for stop in (text[2:4], [text[3], "not there", text[2:4]]):
        (choice,) = ask(client, memory, stop=stop).choices
        assert choice.finish_reason == "stop"
        assert choice.message.content in (text[:2], text[: text.find(text[3])])
        assert not any(end in choice.message.content for end in stop if end in text)
    assert ask(client, memory, stop=[]).choices[0].message.content == text


def test_fields_that_ask_for_nothing_are_taken(client: OpenAI, memory: str) -> None:
    completion = ask(
        client,
        memory,
        **{"n": 1, "logprobs": False, "presence_penalty": 0.0, "frequency_penalty": 0},
        **{"tools": [], "tool_choice": "none", "logit_bias": {}, "temperature": None},
        **{"response_format": {"type": "text"}, "modalities": ["text"], "stop": None},
        **{"user": "ada", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
    )
    assert completion.choices == ask(client, memory).choices


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"extra_body": {"memory_id": UNKNOWN_ID}}, "memory_id"),
        ({"extra_body": {"memory": "mem_1"}}, "memory"),
        ({"model": f"tiny:{UNKNOWN_ID}"}, None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, None),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
        ),
    ],
)
def test_what_read_cannot_do_is_refused(
    client: OpenAI, memory: str, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(client, memory, **fields)
    error = refused.value
    assert (error.type, error.code) == ("invalid_request_error", "invalid_request")
    assert (error.param or "").startswith(param or "")
    assert (error.param is None) == (param is None)


def test_a_request_without_a_memory_is_told_how_to_name_it(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="extra_body"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found"),
        (
            {"messages": [{"role": "user", "content": " "}]},
            openai.UnprocessableEntityError,
            "empty_query",
        ),
        (
            {"messages": [{"role": "user", "content": QUERY * 9}]},
            openai.APIStatusError,
            "query_too_long",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_read_have_their_names(
    client: OpenAI,
    memory: str,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    with pytest.raises(kind) as refused:
        ask(client, memory, stream=stream, **fields)
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", code)
    assert refused.value.message


def test_a_memory_that_is_not_there_is_404(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, UNKNOWN_ID)
    assert refused.value.code == "memory_not_found"


def test_a_memory_is_read_by_the_checkpoint_that_wrote_it(
    lists_url: str, tiny: Checkpoint, lists: Checkpoint
) -> None:
    body = {"document": DOCUMENT, "model": "tiny"}
    memory = httpx.post(f"{lists_url}/write", json=body, timeout=30).json()["memory_id"]
    with OpenAI(base_url=f"{lists_url}/v1", api_key=KEY, max_retries=0) as client:
        assert details(ask(client, memory))["memory_id"] == memory
        with pytest.raises(openai.ConflictError) as refused:
            ask(client, memory, model="lists")
    assert refused.value.code == "fingerprint_mismatch"
    assert tiny.fingerprint in refused.value.message
    assert lists.fingerprint in refused.value.message


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status", "code"),
    [
        ("GET", "/v1/embeddings", {}, "", 404, None),
        ("GET", "/v1/chat/completions", {}, "", 405, None),
        ("POST", "/v1/chat/completions", {}, "{}", 415, "media_type"),
        ("POST", "/v1/chat/completions", {}, " " * 2**21, 413, "body_too_large"),
        ("GET", "/v1/models", {"host": "evil.example"}, "", 421, "host"),
    ],
)
def test_every_error_under_v1_has_openais_form(
    base_url: str,
    method: str,
    path: str,
    headers: dict[str, str],
    content: str,
    status: int,
    code: str | None,
) -> None:
    response = httpx.request(method, base_url + path, headers=headers, content=content)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["message"]


def test_a_service_that_is_stopping_says_so(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    app = create_app(settings, models=Models([tiny]))
    with serving(app) as url:
        body = {"document": DOCUMENT, "verify": False}
        memory = httpx.post(f"{url}/write", json=body, timeout=30).json()["memory_id"]
        app.state.gradmem.engine.stop()
        with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError) as failed:
                    ask(client, memory, stream=stream)
                error = failed.value
                assert (error.status_code, error.type) == (503, "server_error")
                assert error.code == "stopping"
                assert error.response.headers["retry-after"]


def test_the_api_key_is_a_key_of_the_service(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    keys = [make_key(tenant, "write", KeyLimits()) for tenant in ("ours", "theirs")]

    async def store_keys() -> None:
        async with create_store(settings.store_url) as store:
            for _, record in keys:
                await store.save_key(record.key_id, record.model_dump_json())

    asyncio.run(store_keys())
    (ours, _), (theirs, _) = keys
    with serving(create_app(settings, models=Models([tiny]))) as url:
        headers = {"authorization": f"Bearer {ours}"}
        body = {"document": DOCUMENT, "verify": False}
        response = httpx.post(f"{url}/write", json=body, headers=headers, timeout=30)
        memory = response.json()["memory_id"]
        with OpenAI(base_url=f"{url}/v1", api_key=ours, max_retries=0) as client:
            assert details(ask(client, memory))["memory_id"] == memory
            with pytest.raises(openai.AuthenticationError) as unknown:
                ask(client.with_options(api_key=KEY), memory)
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key=KEY).models.list()
            with pytest.raises(openai.NotFoundError) as foreign:
                ask(client.with_options(api_key=theirs), memory)
            with pytest.raises(openai.NotFoundError) as missing:
                ask(client, UNKNOWN_ID)
    assert unknown.value.code == "unauthorized"
    assert foreign.value.body == missing.value.body


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"memory": None},
        {"memory": UNKNOWN_ID},
        {"model": f"tiny:{UNKNOWN_ID}"},
        {"model": f"tiny:{UNKNOWN_ID}", "memory": UNKNOWN_ID},
        {"memory": UNKNOWN_ID, "messages": [{"role": "user", "content": None}]},
        {"memory": UNKNOWN_ID, "messages": [{"role": "assistant", "content": None}]},
        {"memory": UNKNOWN_ID, "n": 2},
        {"memory": UNKNOWN_ID, "n": 1, "stop": "a", "seed": 1.0, "top_p": None},
    ],
)
def test_openapi_accepts_what_the_route_accepts(base_url: str, fields: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUERY}], **fields}
    document = httpx.get(f"{base_url}/openapi.json").json()
    operation = document["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    accepted = httpx.post(f"{base_url}/v1/chat/completions", json=body).status_code == 404
    assert Draft202012Validator(schema).is_valid(body) == accepted
    assert "$ref" not in json.dumps(schema)


def test_the_documented_example_runs(
    tmp_path_factory: pytest.TempPathFactory, serving: Serving, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    text = text_checkpoint(tmp_path_factory.mktemp("text"))
    settings = Settings(store_url=f"sqlite:///{tmp_path}/memories.db", threads=1)
    models = Models([dataclasses.replace(text, name="prose")])
    with serving(create_app(settings, models=models)) as url:
        script = script.replace("http://127.0.0.1:8080", url)
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    whole, streamed = run.stdout.splitlines()
    content, _, found = whole.rpartition(" ")
    assert found in ("True", "False")
    assert streamed == content

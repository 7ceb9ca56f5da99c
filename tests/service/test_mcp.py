"""The MCP server, used by the official client, in front of a real service with keys."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent
from typer.testing import CliRunner

from benchmarks.isolation.command import store_keys
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from service.app import create_app
from service.cli import app
from service.client import Client as ServiceClient
from service.models import Models
from service.settings import Settings
from tests.service.conftest import running

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "MCP.md"
GRADMEM = Path(sys.executable).with_name("gradmem")
SECRET = "4711#"
DOCUMENT = f"Alice: +49 30 5550123\nDoor code: {SECRET}"
NOBODY = "http://127.0.0.1:1"
LISTENING = re.compile(r"Uvicorn running on (\S+)")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"


@pytest.fixture(scope="module")
def keys(store: str) -> list[str]:
    """Keys of two tenants, who may write."""
    return list(asyncio.run(store_keys(store, 2)).values())


@pytest.fixture(scope="module")
def service(store: str, keys: list[str]) -> Iterator[str]:
    """Base URL of a service with the bundled checkpoint for lists."""
    assert keys
    models = Models([load_checkpoint("records")])
    with running(create_app(Settings(store_url=store, threads=1), models=models)) as base:
        yield base


@pytest.fixture(scope="module")
def endpoint(service: str, keys: list[str]) -> Iterator[str]:
    """URL of an MCP server over HTTP, whose own key is that of the first tenant."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "mcp", "--transport", "http", "--port", "0"],
        env=os.environ | {"GRADMEM_URL": service, "GRADMEM_KEY": keys[0]},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield (
            next(found[1] for line in process.stderr if (found := LISTENING.search(line))) + "/mcp"
        )
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stderr.close()


def stdio(url: str, key: str = "", *, command: list[str] | None = None) -> StdioServerParameters:
    """Describe a server as agents start it."""
    program, *arguments = command or [sys.executable, "-m", "service", "mcp"]
    environment = {"GRADMEM_URL": url, "GRADMEM_KEY": key, "PYTHONPATH": str(ROOT)}
    return StdioServerParameters(command=program, args=arguments, env=environment)


@asynccontextmanager
async def over_http(endpoint: str, key: str | None, *, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(endpoint, http_client=http), mode=mode) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return what a tool returns, which is the same as text and as data."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (content,) = result.content
    assert isinstance(content, TextContent)
    data: dict[str, Any] = json.loads(content.text)
    assert data == result.structured_content
    return data


def message(result: CallToolResult) -> str:
    """Return the message of an error."""
    assert result.is_error
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def use_memory(client: Client) -> None:
    """Write, ask, list and delete a memory."""
    written = await call(client, "write_memory", text=DOCUMENT, name="doors", metadata={"a": "b"})
    memory_id = written["memory_id"]
    assert (written["pages"], written["skipped_lines"], written["expires_at"]) == (1, [], None)
    asked = await call(client, "ask_memory", memory_id=memory_id, questions=["door code", "Bob"])
    assert [(answer["found"], answer["answer"]) for answer in asked["answers"]] == [
        (True, SECRET),
        (False, None),
    ]
    shares = [answer["confidence"] for answer in asked["answers"]]
    assert shares == [round(share, 2) for share in shares]
    listed = await call(client, "list_memories", metadata={"a": "b"}, limit=1)
    assert ([memory["memory_id"] for memory in listed["memories"]], listed["more"]) == (
        [memory_id],
        False,
    )
    assert await call(client, "delete_memory", memory_id=memory_id) == {"memory_id": memory_id}
    gone = await client.call_tool("ask_memory", {"memory_id": memory_id, "questions": ["Bob"]})
    assert "no memory has this id" in message(gone)


@pytest.mark.anyio
async def test_an_agent_uses_a_memory_over_standard_input(
    service: str, keys: list[str], tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(stdio(service, keys[0]), errlog=log)) as client:
            await use_memory(client)
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.anyio
async def test_an_agent_uses_a_memory_over_http(endpoint: str, keys: list[str]) -> None:
    async with over_http(endpoint, keys[1]) as client:
        await use_memory(client)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_writing_reports_its_gradient_steps(
    endpoint: str, keys: list[str], mode: str
) -> None:
    reported: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        reported.append((progress, message))

    async with over_http(endpoint, keys[0], mode=mode) as client:
        arguments = {"text": DOCUMENT}
        written = await client.call_tool("write_memory", arguments, progress_callback=note)
        assert written.structured_content is not None
        await call(client, "delete_memory", memory_id=written.structured_content["memory_id"])
    assert reported == [(step, f"page 1, step {step}") for step in range(1, 6)]


@pytest.mark.anyio
async def test_tools_say_what_they_do_to_memories(endpoint: str) -> None:
    async with over_http(endpoint, None) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "found: false" in (client.instructions or "")
    hints = {
        name: (tool.annotations.read_only_hint, bool(tool.annotations.destructive_hint))
        for name, tool in tools.items()
        if tool.annotations
    }
    assert hints == {
        "write_memory": (False, False),
        "ask_memory": (True, False),
        "list_memories": (True, False),
        "delete_memory": (False, True),
    }
    assert "the text itself is forgotten" in " ".join(
        (tools["write_memory"].description or "").lower().split()
    )
    assert "do not guess" in " ".join((tools["ask_memory"].description or "").lower().split())
    for tool in tools.values():
        assert tool.output_schema is not None
        assert "context" not in tool.input_schema["properties"]


@pytest.mark.anyio
async def test_over_http_each_caller_has_the_memories_of_its_own_key(
    endpoint: str, keys: list[str]
) -> None:
    asked = {"memory_id": "0" * 32, "questions": ["Bob"]}
    async with over_http(endpoint, keys[0]) as owner:
        written = await call(owner, "write_memory", text=DOCUMENT)
        missing = message(await owner.call_tool("ask_memory", asked))
    asked["memory_id"] = written["memory_id"]
    async with over_http(endpoint, keys[1]) as other:
        assert message(await other.call_tool("ask_memory", asked)) == missing
        assert (await call(other, "list_memories"))["memories"] == []
        assert message(await other.call_tool("delete_memory", {"memory_id": asked["memory_id"]}))
    async with over_http(endpoint, keys[0]) as owner:
        assert (await call(owner, "ask_memory", **asked))["answers"][0]["found"] is False
        await call(owner, "delete_memory", memory_id=asked["memory_id"])


@pytest.mark.anyio
@pytest.mark.parametrize("key", [None, "gm_wrong", "with spaces"])
async def test_over_http_the_servers_own_key_is_for_nobody(endpoint: str, key: str | None) -> None:
    async with over_http(endpoint, key) as client:
        refused = message(await client.call_tool("list_memories", {}))
    assert "key" in refused


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [("Host", "attacker.example", 421), ("Origin", "http://attacker.example", 403)],
)
def test_web_pages_do_not_reach_it(endpoint: str, header: str, value: str, status: int) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accepted = {"Accept": "application/json, text/event-stream"}
    response = httpx.post(endpoint, json=body, headers=accepted | {header: value})
    assert response.status_code == status


@pytest.mark.anyio
async def test_an_error_is_told_in_the_services_own_words(service: str, keys: list[str]) -> None:
    async with Client(stdio(service, keys[0])) as client:
        refused = await client.call_tool("write_memory", {"text": "schlüssel: 1"})
    assert "positions" in message(refused) or "character" in message(refused)
    async with Client(stdio(NOBODY)) as client:
        assert "cannot reach the service" in message(await client.call_tool("list_memories", {}))


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("options", "environment", "status", "reason"),
    [
        ([], {}, 1, "GRADMEM_ALLOWED_HOSTS"),
        ([], {"GRADMEM_ALLOWED_HOSTS": "*.example.com"}, 2, "whole names"),
        ([], {"GRADMEM_ALLOWED_HOSTS": "agents.example.com"}, 1, "--insecure"),
        (["--url", NOBODY], {"GRADMEM_ALLOWED_HOSTS": "*"}, 1, "cannot reach the service"),
    ],
)
def test_it_does_not_open_memories_to_others(
    base_url: str, options: list[str], environment: dict[str, str], status: int, reason: str
) -> None:
    result = CliRunner(env={"GRADMEM_URL": base_url} | environment).invoke(
        app, ["mcp", "--transport", "http", "--host", "0.0.0.0", *options]
    )
    assert result.exit_code == status
    assert reason in result.stderr


def read_configurations() -> list[dict[str, Any]]:
    """Return the servers that the page's configurations name."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    documents = [json.loads(block) for block in blocks]
    return [
        (document.get("mcpServers") or document["servers"])["gradmem"] for document in documents
    ]


@pytest.mark.anyio
async def test_the_pages_configurations_start_a_server(
    service: str, keys: list[str], endpoint: str
) -> None:
    commands, urls = set(), set()
    for server in read_configurations():
        if "url" in server:
            urls.add((server["url"], server["headers"]["Authorization"]))
        else:
            commands.add((server["command"], *server["args"]))
            assert set(server["env"]) == {"GRADMEM_URL", "GRADMEM_KEY"}
    assert urls == {("http://127.0.0.1:8081/mcp", "Bearer ${GRADMEM_KEY}")}
    assert endpoint.endswith("/mcp")
    ((program, *arguments),) = commands
    assert program == "/path/to/gradmem/.venv/bin/gradmem"
    command = [str(GRADMEM), *arguments]
    async with Client(stdio(service, keys[0], command=command)) as client:
        assert (await call(client, "list_memories"))["more"] is False


def test_the_pages_example_closes_a_phase(
    service: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setenv("GRADMEM_URL", service)
    monkeypatch.setenv("GRADMEM_KEY", keys[0])
    names: dict[str, Any] = {}
    exec(example, names)
    assert [message["role"] for message in names["messages"]] == ["system", "user", "user"]
    with ServiceClient() as client:
        assert client.memory(names["memory"].memory_id).ask("code").answer == SECRET

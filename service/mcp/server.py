"""The MCP server: its tools, and the two transports over which agents reach them."""

import inspect
import logging
from importlib.metadata import version
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations

from service.mcp.tools import MemoryTools
from service.settings import Settings, StartError

INSTRUCTIONS = """\
GradMem keeps texts for you outside your context. write_memory compresses a text into a memory and \
returns its handle; the text itself is forgotten. ask_memory answers questions about single facts \
from a memory alone; `found: false` means that it does not know. When a phase of work is done, \
write what it found as plain sentences into a memory, and go on with the handle."""

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
DELETES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


def create_server(url: str) -> MCPServer[Any]:
    """Return the server, which is a client of the service.

    Args:
        url: Base URL of the service.
    """
    # Below, the package logs why a tool failed, which is the caller's affair.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    tools = MemoryTools(url)
    server: MCPServer[Any] = MCPServer(
        "gradmem", title="GradMem", instructions=INSTRUCTIONS, version=version("gradmem")
    )
    for tool, title, annotations in (
        (tools.write_memory, "Write a memory", ADDS),
        (tools.ask_memory, "Ask a memory", READS),
        (tools.list_memories, "List memories", READS),
        (tools.delete_memory, "Delete a memory", DELETES),
    ):
        server.add_tool(
            tool, title=title, description=inspect.getdoc(tool), annotations=annotations
        )
    return server


def serve_http(server: MCPServer[Any], settings: Settings) -> None:
    """Serve streamable HTTP at `/mcp` until a signal ends the process.

    No session outlives its request, so that every request is judged by the key that it brings.

    Args:
        server: The server.
        settings: Address, and the hosts and origins to answer for.

    Raises:
        StartError: The address is taken, or not one of this machine; the log says which.
    """
    hosts = settings.hosts_to_answer_for
    app = server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=settings.max_body_bytes,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=bool(hosts),
            allowed_hosts=[form for host in hosts for form in _forms(host)],
            allowed_origins=settings.allowed_origins,
        ),
    )
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,  # that of the root logger
            access_log=False,
            server_header=False,
        )
    except SystemExit as error:  # uvicorn's status would mean something else here
        raise StartError("the MCP server could not start; the log says why") from error


def _forms(host: str) -> tuple[str, str]:
    """Return a host as `Host` headers have it, without a port and with any."""
    name = f"[{host}]" if ":" in host else host
    return name, f"{name}:*"

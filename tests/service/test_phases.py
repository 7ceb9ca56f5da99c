"""Messages of a phase as a text, and the message that takes their place."""

import json
from typing import Any

import pytest

from service.client import Client, handle_message, render_messages

CALL = {"order": "A7", "full": True}
RESULT: dict[str, Any] = {
    "status": "sent",
    "items": [{"sku": "x1", "count": 2}, {"sku": "x2", "count": 1}],
    "tags": ["new", "blue"],
    "paid": None,
}
TEXT = """\
# User
Where is my order?

# Assistant
I look it up.

# find_order order: A7, full: true
status: sent
items 1 sku: x1
items 1 count: 2
items 2 sku: x2
items 2 count: 1
tags: new, blue
paid: null

# Assistant
It was sent."""
OPENAI: list[dict[str, Any]] = [
    {"role": "user", "content": "Where is my order?"},
    {
        "role": "assistant",
        "content": "I look it up.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "find_order", "arguments": json.dumps(CALL)},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(RESULT)},
    {"role": "assistant", "content": "It was sent."},
]
ANTHROPIC: list[dict[str, Any]] = [
    {"role": "user", "content": "Where is my order?"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "An order.", "signature": "x"},
            {"type": "text", "text": "I look it up."},
            {"type": "tool_use", "id": "toolu_1", "name": "find_order", "input": CALL},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_1",
                "content": [{"type": "text", "text": json.dumps(RESULT)}],
            }
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "It was sent."}]},
]


@pytest.mark.parametrize("messages", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_both_kinds_of_messages_make_the_same_text(messages: list[dict[str, Any]]) -> None:
    assert render_messages(messages) == TEXT


@pytest.mark.parametrize(
    ("result", "rendered"),
    [
        ("no such order", "no such order"),
        ("[1, 2", "[1, 2"),
        ("[" * 100_000, "[" * 100_000),
        ("{}", ""),
        ("17", "17"),
        (None, ""),
    ],
)
def test_a_result_that_is_no_json_object_stays_as_it_is(result: object, rendered: str) -> None:
    phase = [OPENAI[1], OPENAI[2] | {"content": result}]
    section = render_messages(phase).partition("# find_order order: A7, full: true")[2]
    assert section.strip() == rendered


def test_what_is_no_text_is_named() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert render_messages([{"role": "user", "content": [picture]}]) == "# User\n[image]"


@pytest.mark.parametrize("messages", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_a_call_and_its_result_are_closed_together(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="no result of 'find_order order: A7"):
        render_messages(messages[:2])
    with pytest.raises(ValueError, match="of a result is not in the phase"):
        render_messages(messages[2:])


def test_a_message_without_a_role_is_refused() -> None:
    with pytest.raises(ValueError, match="no role"):
        render_messages([{"type": "function_call", "name": "find_order"}])


def test_the_handle_names_the_memory_and_how_to_ask(base_url: str) -> None:
    with Client(base_url) as client:
        memory = client.write("!aB:7x!!kk:Q3!|", name="the keys")
    message = handle_message(memory.info)
    assert message["role"] == "user"
    for word in (memory.memory_id, "about the keys", "ask_memory", "found: false"):
        assert word in message["content"]

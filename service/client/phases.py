"""Close a phase of an agent's work: its messages become a memory, and one message names it.

memory = client.write(render_messages(messages[start:end]), name="the customer's bookings")
messages[start:end] = [handle_message(memory.info)]
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from service.schemas import MemoryInfo, MemorySummary

Message: TypeAlias = Mapping[str, Any]
"A message of a chat, as OpenAI's chat completions or Anthropic's messages have it."


def render_messages(messages: Sequence[Message]) -> str:
    """Return messages as a text to write: a section for each, under a Markdown heading.

    Pages repeat the heading that they continue, so that each says whose result it holds. A result
    stands under its call, and JSON as a line for each value. Images become `[image]`; what a model
    thought in between is left out.

    Args:
        messages: The messages of the phase, with the results of all its tool calls.

    Raises:
        ValueError: A message has no role; or a call and its result are not both among the
            messages, and without one of them no model takes the rest of the chat.
    """
    calls: dict[str, str] = {}
    sections: list[str] = []
    for message in messages:
        if "role" not in message:
            raise ValueError(
                "a message has no role; take those of chat completions, or Anthropic's"
            )
        role = str(message["role"]).capitalize()
        for part in _parts(message):
            match part:
                case {"type": "tool_use", "id": str(call), "name": str(name)}:
                    calls[call] = _render_call(name, part.get("input"))
                case {"type": "tool_result", "tool_use_id": str(call)}:
                    if call not in calls:
                        raise ValueError(f"the call {call!r} of a result is not in the phase")
                    sections.append(f"# {calls.pop(call)}\n{_render_result(part)}")
                case {"type": "thinking" | "redacted_thinking"}:
                    pass
                case {"text": str(text)}:
                    sections.append(f"# {role}\n{text.strip()}")
                case _:
                    sections.append(f"# {role}\n[{_kind(part)}]")
    if calls:
        raise ValueError(f"the phase has no result of {', '.join(map(repr, calls.values()))}")
    return "\n\n".join(section.rstrip() for section in sections)


def handle_message(memory: MemoryInfo | MemorySummary) -> dict[str, str]:
    """Return the message that stands for a closed phase, in the place of its messages.

    Args:
        memory: The memory of the phase; its name says what the phase was about.
    """
    about = f" about {memory.name}" if memory.name else ""
    return {
        "role": "user",
        "content": f"[The work up to here{about} was closed into memory {memory.memory_id}. Its"
        " text is gone. Ask the memory with ask_memory, in short questions about single facts;"
        " found: false means that it does not know.]",
    }


def _parts(message: Message) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a message, in Anthropic's form."""
    content = message.get("content") or []
    if message["role"] == "tool":
        yield {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id"),
            "content": content,
        }
        return
    yield from [{"text": content}] if isinstance(content, str) else content
    for call in message.get("tool_calls") or []:
        yield {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": _parse(call["function"]["arguments"]),
        }


def _render_call(name: str, arguments: object) -> str:
    """Return a call on one line: its name and its arguments."""
    return f"{name} {', '.join(_flatten(arguments))}".rstrip()


def _render_result(part: Mapping[str, Any]) -> str:
    content = part.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(entry.get("text", f"[{_kind(entry)}]") for entry in content)
    return "\n".join(_flatten(_parse(content)))


def _parse(text: str) -> object:
    """Return what a text is as a JSON object or list; any other text as it is."""
    if text.lstrip()[:1] not in ("{", "["):
        return text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _flatten(value: object, path: str = "") -> Iterator[str]:
    """Yield the values in a JSON value as `path: value`, a text for each; numbers count from 1."""
    if isinstance(value, Mapping):
        entries = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        entries = [(str(number), entry) for number, entry in enumerate(value, start=1)]
    else:
        line = ", ".join(map(_scalar, value)) if isinstance(value, list) else _scalar(value)
        yield f"{path}: {line}" if path else line
        return
    for key, entry in entries:
        yield from _flatten(entry, f"{path} {key}".lstrip())


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind(part: Mapping[str, Any]) -> str:
    """Return the kind of a part without text, such as `image`."""
    return str(part.get("type", "part")).removesuffix("_url")

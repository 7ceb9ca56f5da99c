"""Phases of recorded agents' work, with questions about what their tools returned.

The transcripts are those of tau-bench (Yao et al., 2024, arXiv 2406.12045): a list of runs, each
with the messages of an agent, a customer and tools, as OpenAI's chat completions have them.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.replies import AskedText
from gradmem_core.errors import DataError
from service.client import render_messages
from training.tasks import Question

LOOKUP = "get_"
"Start of the names of tools that look something up, which is what questions are about."
KEY_CHARACTERS, VALUE_CHARACTERS = 24, 56
"Longest key and value of a record."


@dataclass(frozen=True)
class ToolValue:
    """A value that a tool returned."""

    path: str
    "Names that lead to it, for instance `flight_type`."
    subject: str
    "The thing that it is of, for instance `reservation JG7FMM`."
    value: str

    @property
    def line(self) -> str:
        """The line that states it, in the text of a phase and in a list of records."""
        return f"{self.path}: {self.value}"

    def ask(self, *, as_record: bool) -> Question:
        """Return the question for it, or the key of its record."""
        asked = f"What is the {self.path.replace('_', ' ')} of {self.subject}?"
        return Question(self.path if as_record else asked, f" {self.value}\n", self.value)


@dataclass(frozen=True)
class WorkPhase:
    """The messages from one message of the customer to the next."""

    messages: Sequence[dict[str, Any]]
    facts: tuple[ToolValue, ...]

    @property
    def text(self) -> str:
        """The text that is written when the phase is closed."""
        return render_messages(self.messages)

    @property
    def subjects(self) -> set[str]:
        """The things that its facts are of."""
        return {fact.subject for fact in self.facts}


@dataclass(frozen=True)
class AskedPhase:
    """The text of a phase with what is asked about it."""

    text: str
    facts: tuple[ToolValue, ...]
    "Facts of the text that are asked for."
    foreign: tuple[ToolValue, ...]
    "Facts that it does not have."
    as_records: bool = False
    "The text is a list of records, which are asked for by their keys."

    @property
    def asked(self) -> AskedText:
        """The text with its questions."""
        return AskedText(
            self.text,
            present=tuple(fact.ask(as_record=self.as_records) for fact in self.facts),
            absent=tuple(fact.ask(as_record=self.as_records) for fact in self.foreign),
        )


def read_phases(file: Path) -> list[WorkPhase]:
    """Read the phases in which something was looked up; what was looked up before is left out.

    Raises:
        DataError: The file cannot be read, or is not a list of runs, or nothing was looked up.
    """
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))
        phases = [phase for run in runs for phase in _split(run["traj"])]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} is not a list of runs with their messages in `traj`") from error
    seen: set[str] = set()
    fresh = []
    for phase in phases:
        if phase.facts and not phase.subjects & seen:
            fresh.append(phase)
        seen |= phase.subjects
    if not fresh:
        raise DataError(f"{file} has no phase in which a tool called {LOOKUP}... found anything")
    return fresh


def ask_phases(phases: Sequence[WorkPhase], *, questions: int, seed: int) -> list[AskedPhase]:
    """Draw facts of each phase to ask for, and one of the next phase that it does not have.

    Args:
        phases: The phases.
        questions: Most questions about a phase.
        seed: Seed of the draws.
    """
    drawn = _draw([phase.facts for phase in phases], questions, seed)
    following = [*drawn[1:], drawn[0]]
    return [
        AskedPhase(
            phase.text,
            facts,
            tuple(fact for fact in other[:1] if fact.subject not in phase.subjects),
        )
        for phase, facts, other in zip(phases, drawn, following, strict=True)
    ]


def ask_records(phases: Sequence[WorkPhase], *, questions: int, seed: int) -> list[AskedPhase]:
    """Take what was looked up first in each phase as records, and ask for their keys.

    See `ask_phases` for the arguments. What is too long for a record is left out.
    """
    lists = [
        tuple(
            fact for fact in phase.facts if fact.subject == phase.facts[0].subject and _fits(fact)
        )
        for phase in phases
    ]
    drawn = _draw(lists, questions, seed)
    following = [*drawn[1:], drawn[0]]
    return [
        AskedPhase(
            "\n".join(fact.line for fact in facts),
            asked,
            tuple(fact for fact in other if fact.path not in {own.path for own in facts})[:1],
            as_records=True,
        )
        for facts, asked, other in zip(lists, drawn, following, strict=True)
    ]


def _draw(
    facts: Sequence[tuple[ToolValue, ...]], most: int, seed: int
) -> list[tuple[ToolValue, ...]]:
    draws = random.Random(seed)  # noqa: S311
    return [tuple(draws.sample(some, min(most, len(some)))) for some in facts]


def _fits(fact: ToolValue) -> bool:
    return (
        len(fact.path) <= KEY_CHARACTERS
        and len(fact.value) <= VALUE_CHARACTERS
        and fact.line.isascii()
    )


def _split(messages: Sequence[dict[str, Any]]) -> Iterator[WorkPhase]:
    starts = [place for place, message in enumerate(messages) if message["role"] == "user"]
    for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
        part = messages[start:end]
        yield WorkPhase(part, tuple(_find_facts(part)))


def _find_facts(messages: Sequence[dict[str, Any]]) -> Iterator[ToolValue]:
    """Yield the single values in what was looked up by one argument, a level deep."""
    calls = {
        call["id"]: call["function"]
        for message in messages
        for call in message.get("tool_calls") or []
        if call["function"]["name"].startswith(LOOKUP)
    }
    for message in messages:
        call = calls.get(message.get("tool_call_id", ""))
        if call is None or not message["content"].startswith("{"):
            continue
        ((name, key),) = json.loads(call["arguments"]).items()
        subject = f"{name.removesuffix('_id')} {key}"
        for path, value in _values(json.loads(message["content"])):
            if value != key:
                yield ToolValue(path, subject, value)


def _values(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, dict) and not path:
            yield from _values(value, f"{name} ")
        elif not isinstance(value, dict | list):
            yield path + name, value if isinstance(value, str) else json.dumps(value)

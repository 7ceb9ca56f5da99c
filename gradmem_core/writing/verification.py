"""Verification of a written page: READ is asked for its text, and the answers are graded.

WRITE's own figures are teacher-forced and say little about READ. Here READ continues the beginnings
of a page's sentences, and gives the values for the keys of its `key: value` lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem_core.blob import ReadBack
from gradmem_core.checkpoints.checkpoint import Checkpoint

BEGINNING = 5
"Words of a sentence that READ is given."
CONTINUED = 16
"Most tokens of a continuation, as in training."
MIN_CONTINUED = 3
"Fewest words after a beginning that READ is asked to continue."
MAX_PROBES = 8
"Most probes of a page, spread over it."
WEAK = 0.5
"A line or a page is weak if READ recalls less than this share of its words."
RECORD = re.compile(r"^[\s>*+-]*(?P<key>[^:=\t|]{1,60}?)(?::\s+|\s=\s|\t+)(?P<value>\S.*?)\s*$")
"A line with a key and a value."
SENTENCE_END = re.compile("(?<=[.!?\u2026\u3002\uff01\uff1f])[\"'\u201d\u2019)\\]]*\\s+")
"The end of a sentence within a line."


@dataclass(frozen=True)
class Probe:
    """A query about a page, with the words that should answer it."""

    ids: list[int]
    "Token ids of the query."
    expected: list[str]
    "Words of the right answer."
    max_tokens: int
    "Most tokens of the answer."
    line: int
    "Line of the document, from 1."


def make_probes(checkpoint: Checkpoint, text: str, *, lines: Sequence[int]) -> list[Probe]:
    """Make the probes of a page.

    Args:
        checkpoint: The checkpoint that wrote the page; it must have a `continuation_prompt`.
        text: Text of the page.
        lines: Number of each line in the document; 0 for a line without probes.

    Returns:
        At most MAX_PROBES, in the order of the text; none where the text is too short.
    """
    probes: list[Probe] = []
    for place, (number, line) in enumerate(zip(lines, text.split("\n"), strict=True)):
        if not number:
            continue
        record = RECORD.match(line)
        if record is not None:
            probes += _probe_key(checkpoint, record["key"], record["value"], number)
            continue
        for nth, sentence in enumerate(SENTENCE_END.split(line.strip())):
            probes += _probe_sentence(checkpoint, sentence, number, first=place + nth == 0)
    stride = max(1, -(-len(probes) // MAX_PROBES))
    return probes[::stride]


def grade(probes: Sequence[Probe], answers: Sequence[str]) -> ReadBack:
    """Compare READ's answers with the page.

    Args:
        probes: The probes.
        answers: Text of READ's answer to each.
    """
    right: Counter[int] = Counter()
    words: Counter[int] = Counter()
    for probe, answer in zip(probes, answers, strict=True):
        right[probe.line] += _count_right(probe.expected, answer)
        words[probe.line] += len(probe.expected)
    weak = tuple(line for line in words if right[line] < WEAK * words[line])
    return ReadBack(words=words.total(), right=right.total(), weak_lines=weak)


def _probe_key(checkpoint: Checkpoint, key: str, value: str, line: int) -> list[Probe]:
    """Ask for the value of a key."""
    tokenizer = checkpoint.tokenizer
    ids = tokenizer.encode_query(key.strip(), checkpoint.task.query_template)
    return _probe(checkpoint, ids, value.split(), len(tokenizer.encode(f" {value}")), line)


def _probe_sentence(
    checkpoint: Checkpoint, sentence: str, line: int, *, first: bool
) -> list[Probe]:
    """Ask for the continuation of a sentence; not where few words follow its beginning."""
    words = sentence.split()
    if len(words) < BEGINNING + MIN_CONTINUED:
        return []
    beginning = " ".join(words[:BEGINNING])
    tokenizer, prompt = checkpoint.tokenizer, checkpoint.task.continuation_prompt
    assert prompt is not None
    ids = tokenizer.encode(prompt) + tokenizer.encode(beginning if first else f" {beginning}")
    expected, tokens = [], 0
    for word in words[BEGINNING:]:
        tokens += len(tokenizer.encode(f" {word}"))
        if tokens > CONTINUED:
            break
        expected.append(word)
    return _probe(checkpoint, ids, expected, CONTINUED, line)


def _probe(
    checkpoint: Checkpoint, ids: list[int], expected: list[str], tokens: int, line: int
) -> list[Probe]:
    """Make a probe, unless nothing is expected or the query is too long."""
    config = checkpoint.model.config
    if not expected or len(ids) > config.max_query_tokens:
        return []
    return [Probe(ids, expected, min(tokens + 1, config.max_answer_tokens), line)]


def _count_right(expected: Sequence[str], answer: str) -> int:
    """Count the words of an answer that are right and in the right place."""
    return sum(
        word.casefold() == given.casefold()
        for word, given in zip(expected, answer.split(), strict=False)
    )

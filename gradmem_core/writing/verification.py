"""What a memory gives back: READ is asked for what was written, and compared with the text.

WRITE's own figures are teacher-forced and say little of READ. Here READ continues the beginnings of
a page's sentences, and answers for the keys of its `key: value` lines. A page is one WRITE's text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradmem_core.blob import ReadBack
from gradmem_core.checkpoints.checkpoint import Checkpoint

BEGINNING = 5
"Words of a sentence that are given."
CONTINUED = 16
"Most tokens that READ continues a beginning by: what checkpoints are trained on."
FEWEST = 3
"Words that have to follow a beginning for it to be asked about."
MOST_PROBES = 8
"Most things asked of a page, spread over it."
WEAK = 0.5
"Share of words below which a line, or a page, is weak."
RECORD = re.compile(r"^[\s>*+-]*(?P<key>[^:=\t|]{1,60}?)(?::\s+|\s=\s|\t+)(?P<value>\S.*?)\s*$")
"A line of key and value."
SENTENCE_END = re.compile("(?<=[.!?\u2026\u3002\uff01\uff1f])[\"'\u201d\u2019)\\]]*\\s+")
"Between sentences of a line."


@dataclass(frozen=True)
class Probe:
    """One thing that READ is asked of a page."""

    ids: list[int]
    "Tokens of what is asked."
    expected: list[str]
    "The words that should come."
    most_tokens: int
    "Tokens that READ gets for them."
    line: int
    "Line of the document, from 1."


def make_probes(checkpoint: Checkpoint, text: str, *, lines: Sequence[int]) -> list[Probe]:
    """List what READ can be asked of a page to see whether it holds it.

    Args:
        checkpoint: What wrote it; it has to have a `continuation_prompt`.
        text: The page's text.
        lines: For each of its lines the number in the document; 0 for one that is not asked about.

    Returns:
        At most MOST_PROBES, in the order of the text; none where the text is too short for any.
    """
    found: list[Probe] = []
    for place, (number, line) in enumerate(zip(lines, text.split("\n"), strict=True)):
        if not number:
            continue
        record = RECORD.match(line)
        if record is not None:
            found += _key_probe(checkpoint, record["key"], record["value"], number)
            continue
        for nth, sentence in enumerate(SENTENCE_END.split(line.strip())):
            found += _sentence_probe(checkpoint, sentence, number, first=place + nth == 0)
    stride = max(1, -(-len(found) // MOST_PROBES))
    return found[::stride]


def grade(probes: Sequence[Probe], answers: Sequence[str]) -> ReadBack:
    """Compare what READ said with what the page says.

    Args:
        probes: What was asked.
        answers: What was said to each.
    """
    shares = [
        _words_right(probe.expected, said) for probe, said in zip(probes, answers, strict=True)
    ]
    by_line: dict[int, list[tuple[int, int]]] = {}
    for probe, right in zip(probes, shares, strict=True):
        by_line.setdefault(probe.line, []).append((right, len(probe.expected)))
    weak = [
        line
        for line, found in by_line.items()
        if sum(right for right, _ in found) < WEAK * sum(words for _, words in found)
    ]
    return ReadBack(
        words=sum(len(probe.expected) for probe in probes),
        right=sum(shares),
        weak_lines=tuple(weak),
    )


def _key_probe(checkpoint: Checkpoint, key: str, value: str, line: int) -> list[Probe]:
    ids = checkpoint.tokenizer.encode_query(key.strip(), checkpoint.task.query_template)
    return _probe(
        checkpoint, ids, value.split(), len(checkpoint.tokenizer.encode(f" {value}")), line
    )


def _sentence_probe(
    checkpoint: Checkpoint, sentence: str, line: int, *, first: bool
) -> list[Probe]:
    words = sentence.split()
    if len(words) < BEGINNING + FEWEST:
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
    config = checkpoint.model.config
    if not expected or len(ids) > config.max_query_tokens:
        return []
    return [Probe(ids, expected, min(tokens + 1, config.max_answer_tokens), line)]


def _words_right(expected: Sequence[str], said: str) -> int:
    """Count the words that are said in their places."""
    return sum(
        ours.casefold() == theirs.casefold()
        for ours, theirs in zip(expected, said.split(), strict=False)
    )

"""The places where a text may be cut into pages, and the cost of a cut at each of them.

A text is read as people lay it out: sections under headings (Markdown's `#`, or underlined with `=`
or `-`), blocks between blank lines, lines (items of a list, rows of a table, turns of a transcript,
code), sentences. Each sentence, or each line where that is shorter, is a piece. The cost of a cut
is counted in pages: two torn sentences cost as much as one more page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

SUBSECTION = 0.03
"Cost of a cut before a heading, for each level below the first."
BLOCK = 0.2
"Cost of a cut at a blank line."
LINE = 0.35
"Cost of a cut at the end of a line."
SENTENCE = 0.5
"Cost of a cut within a line or a wrapped paragraph, after a sentence."
WORDS = 1.0
"Cost of a cut within a sentence, between words."
CHARACTERS = 1.3
"Cost of a cut within a run of characters without a space."
INDENTED = 0.1
"Additional cost where the line after the cut belongs under a line before it."
LEAD_IN = 0.5
"Additional cost after a line that introduces the next, or inside a code block."
ORPHAN = 4.0
"Additional cost where a heading or a table's header would be the last line of a page."

SHORT_LINE = 60
"Most characters of a line that may be a title."
WRAPPED_WIDTH = 40
"Fewest characters in the longest line of a wrapped paragraph."
ROWS_ALIKE = 0.75
"Least share of a table's rows with as many cells as its header."
CODE_SHARE = 0.2
"Least share of code lines in a text whose `#` lines are comments, not headings."

CODE = re.compile(
    r"\s*(?:import|from|def|class|function|const|let|func|fn|return|export|#include|#!/)\b.*[^.!?]$"
    r"|.*(?:\);|[{}];?)$"
)
FENCE = re.compile(r"\s*(`{3,}|~{3,})")
HEADING = re.compile(r"(#{1,6})\s+\S")
UNDERLINE = re.compile(r"(={2,}|-{2,})$")
ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)]|[A-Za-z][.)])\s")  # noqa: RUF001
RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?$|\s*\|\s*:?-+:?\s*\|$")
"The line under the header of a Markdown table."
QUOTED = re.compile(r'"[^"]*"')
SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]*_]*(?=\s)|[。！？]+[”’」』）]*)\s*")  # noqa: RUF001
"The final marks of a sentence and the space after them."
ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "gen", "col", "capt", "rev", "hon"),
    *("hr", "fr", "mme", "sra", "inc", "ltd", "dept", "no", "nr", "vs", "fig", "vol", "ed"),
    *("approx", "tel", "str", "bzw", "usw", "evtl", "ggf", "inkl", "vgl", "abs", "ca"),
}
"Words, without their period, whose period seldom ends a sentence."


@dataclass(frozen=True)
class Piece:
    """A part of a text that is not cut."""

    start: int
    "Offset of the first character; a line's indentation is part of the piece."
    end: int
    "Offset after the last character that is not a space."
    cost: float
    "Cost of a cut before the piece, in pages."
    heading: str = ""
    "Heading of the section that the piece continues; empty at the start of a section."
    header: str = ""
    "Header of the table of which the piece starts a row; empty outside of tables."


@dataclass(frozen=True)
class _Line:
    start: int
    text: str  # without trailing spaces
    code: bool  # in a program, or between fences, or a fence
    fence: bool

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def first_word(self) -> str:
        return self.text.split(maxsplit=1)[0]


_Lines = list[_Line]


def find_pieces(text: str) -> list[Piece]:
    """Cut a text at every place where a page may start.

    Args:
        text: Any text with line feeds as line ends.

    Returns:
        The pieces, in order, with only white space between them; empty for a text without words.
    """
    pieces: list[Piece] = []
    heading = ""
    before: _Lines = []
    for block in _read_blocks(text):
        level = _heading_level(block)
        cost = BLOCK if level is None else SUBSECTION * (level - 1)
        cost += _cost_after_block(before)
        first = Piece(0, 0, cost, heading if level is None else "")
        for unit in _cut_block(first, block):
            pieces += _cut_sentences(text, unit)
        if level is not None:
            heading = block[0].text.strip()
        before = block
    return pieces


def _read_lines(text: str) -> _Lines:
    """Read the lines of a text, and of consecutive blank lines only the first."""
    lines: _Lines = []
    start, fence = 0, ""
    for raw in text.split("\n"):
        line = raw.rstrip()
        if line or (lines and lines[-1].text):
            mark = FENCE.match(line)
            is_fence = bool(mark and (not fence or mark[1].startswith(fence)))
            lines.append(_Line(start, line, bool(fence) or is_fence, is_fence))
            if mark and is_fence:
                fence = "" if fence else mark[1]
        start += len(raw) + 1
    if _is_code([line.text for line in lines if line.text and not line.code]):
        return [replace(line, code=True) for line in lines]
    return lines


def _is_code(lines: list[str]) -> bool:
    """Tell whether lines are a program rather than prose."""
    return 0 < CODE_SHARE * len(lines) <= sum(bool(CODE.match(line)) for line in lines)


def _read_blocks(text: str) -> Iterator[_Lines]:
    """Yield the blocks between blank lines, and each heading as a block of its own."""
    block: _Lines = []
    for line in _read_lines(text):
        if not line.text or _is_marked_heading(line):
            yield from _split_title(block)
            block = []
        if not line.text:
            continue
        if _is_marked_heading(line):
            yield [line]
        else:
            block.append(line)
    yield from _split_title(block)


def _split_title(block: _Lines) -> Iterator[_Lines]:
    """Split a block from the underlined heading that it may start with."""
    title = 2 if _is_underlined(block[:2]) else 0
    yield from filter(None, (block[:title], block[title:]))


def _is_marked_heading(line: _Line) -> bool:
    return not line.code and HEADING.match(line.text) is not None


def _is_underlined(lines: _Lines) -> bool:
    if len(lines) < 2 or any(line.code for line in lines) or not UNDERLINE.match(lines[1].text):
        return False
    return not (ITEM.match(lines[0].text) or UNDERLINE.match(lines[0].text))


def _heading_level(block: _Lines) -> int | None:
    """Return the level of a heading, 1 for the highest; None for a block that is not a heading."""
    if _is_marked_heading(block[0]):
        return len(block[0].text) - len(block[0].text.lstrip("#"))
    if _is_underlined(block) and len(block) == 2:
        return 1 if block[1].text.startswith("=") else 2
    return None


def _cost_after_block(block: _Lines) -> float:
    """Return the additional cost of a cut because of the block before it."""
    if not block:
        return 0.0
    if _heading_level(block) is not None:
        return ORPHAN
    last = block[-1]
    is_title = (
        len(block) == 1
        and len(last.text) <= SHORT_LINE
        and not last.code
        and not ITEM.match(last.text)
        and last.text[-1].isalnum()
    )
    return LEAD_IN if is_title else _cost_after_line(last)


def _cost_after_line(line: _Line) -> float:
    """Return the additional cost of a cut after a line that introduces the next."""
    return LEAD_IN if line.text.endswith((":", "：")) else 0.0  # noqa: RUF001


def _cut_block(first: Piece, block: _Lines) -> Iterator[Piece]:
    """Cut a block into lines, keeping those together that a sentence may run across.

    Args:
        first: Cost and heading of the first piece.
        block: The lines.
    """
    header, row = _find_header(block)
    is_whole = first.heading == "" and _heading_level(block) is not None
    starts = [0] if is_whole or _is_wrapped(block) else _unit_starts(block)
    for at, until in pairwise([*starts, len(block)]):
        line = block[at]
        cost = first.cost if at == 0 else LINE + _cost_after_line(block[at - 1])
        if line.text[0].isspace():
            cost += INDENTED
        if at and line.fence != block[at - 1].fence and line.code and block[at - 1].code:
            cost += LEAD_IN
        if header < at <= row:
            cost += ORPHAN
        yield Piece(
            line.start,
            block[until - 1].end,
            cost,
            first.heading,
            block[header].text.strip() if at >= row else "",
        )


def _unit_starts(block: _Lines) -> list[int]:
    """Find the lines that do not continue a list item by being indented under it."""
    starts, in_item = [], False
    for at, line in enumerate(block):
        is_item = not line.code and ITEM.match(line.text) is not None
        continues = in_item and not is_item and line.text[0].isspace()
        if not continues:
            starts.append(at)
            in_item = is_item
    return starts


def _is_wrapped(block: _Lines) -> bool:
    """Tell whether the lines of a paragraph end only where the next word did not fit."""
    width = max(len(line.text) for line in block)
    if len(block) < 2 or width < WRAPPED_WIDTH or block[0].code:
        return False
    if any(ITEM.match(line.text) or line.text.startswith("|") for line in block):
        return False
    if any(len(line.text) + 1 + len(after.first_word) <= width for line, after in pairwise(block)):
        return False
    lower = sum(line.first_word[0].islower() for line in block[1:])
    return 3 * lower >= len(block) - 1


def _find_header(block: _Lines) -> tuple[int, int]:
    """Find the header and the first row of a table; without one, places beyond the block."""
    none = len(block), len(block)
    if block[0].code:
        return none
    for at, line in enumerate(block[1:], 1):
        if "|" in line.text and RULE.match(line.text) and "|" in block[at - 1].text:
            return at - 1, at + 1
    return (0, 1) if _has_column_names([line.text for line in block]) else none


def _has_column_names(lines: list[str]) -> bool:
    """Tell whether lines have equally many cells and the first line names the columns."""
    if len(lines) < 3 or any(character.isdigit() for character in lines[0]):
        return False
    for separator in "\t;,":
        rows = [QUOTED.sub("", line).split(separator) for line in lines]
        alike = [row for row in rows[1:] if len(row) == len(rows[0]) > 1]
        if ROWS_ALIKE * len(rows[1:]) <= len(alike):
            break
    else:
        return False
    numbered = any(
        all(any(map(str.isdigit, cell)) for cell in column) for column in zip(*alike, strict=True)
    )
    return numbered or (len(rows[0]) > 2 and not any(separator + " " in line for line in lines))


def _cut_sentences(text: str, piece: Piece) -> Iterator[Piece]:
    """Cut a piece after each of its sentences."""
    start, inner = piece.start, replace(piece, cost=SENTENCE, header="")
    sentence = piece
    for match in SENTENCE_END.finditer(text, piece.start, piece.end):
        if match.end() < piece.end and _ends_sentence(text, match):
            yield replace(sentence, start=start, end=match.start() + len(match[0].rstrip()))
            start, sentence = match.end(), inner
    yield replace(sentence, start=start, end=piece.end)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if text[match.end()].islower():
        return False
    if match[0].rstrip() != ".":
        return True
    words = text[max(0, match.start() - 12) : match.start()].split()
    word = words[-1].strip("(\"'“„*_") if words else ""
    if word.isdigit():
        return len(word) > 2  # "3. Mai"
    return len(word) > 1 and "." not in word and word.lower() not in ABBREVIATIONS

"""Where a text may be cut into pages, and how bad a cut is at each place.

A text is read as people lay it out: sections under headings (Markdown's `#`, or underlined with `=`
or `-`), blocks between blank lines, lines (items of a list, rows of a table, turns of a transcript,
code), sentences. Each sentence, or each line where that is shorter, is a piece. The costs say what
a cut before a piece is worth in pages: two torn sentences cost as much as one page more.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

SUBSECTION = 0.03
"A cut before a heading, for each level below the first."
BLOCK = 0.2
"A cut at a blank line."
LINE = 0.35
"A cut at the end of a line."
SENTENCE = 0.5
"A cut within a line or a wrapped paragraph, after a sentence."
WORDS = 1.0
"A cut within a sentence, between words."
CHARACTERS = 1.3
"A cut within a run of characters without a space."
INDENTED = 0.1
"More, where the line that follows the cut belongs under one before it."
LEAD_IN = 0.5
"More, where what precedes the cut introduces what follows it, or a code block loses its end."
ORPHAN = 4.0
"More, where a heading or a table's header would be the last line of a page."

SHORT_LINE = 60
"Most characters of a line that may be a title."
WRAPPED_WIDTH = 40
"Fewest characters of the longest line of a paragraph that is wrapped."
ROWS_ALIKE = 0.75
"Least share of a table's rows that have as many cells as its header."
CODE_SHARE = 0.2
"Least share of lines of code in a text whose `#` lines are comments, not headings."

CODE = re.compile(
    r"\s*(?:import|from|def|class|function|const|let|func|fn|return|export|#include|#!/)\b.*[^.!?]$"
    r"|.*(?:\);|[{}];?)$"
)
FENCE = re.compile(r"\s*(`{3,}|~{3,})")
HEADING = re.compile(r"(#{1,6})\s+\S")
UNDERLINE = re.compile(r"(={2,}|-{2,})$")
ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)]|[A-Za-z][.)])\s")  # noqa: RUF001
RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?$|\s*\|\s*:?-+:?\s*\|$")
"What stands under the header of a Markdown table."
QUOTED = re.compile(r'"[^"]*"')
SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]*_]*(?=\s)|[。！？]+[”’」』）]*)\s*")  # noqa: RUF001
"A sentence's last marks and the space after them."
ABBREVIATIONS = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "no",
        "nr",
        "vs",
        "inc",
        "ltd",
        "jr",
        "sr",
        "fig",
        "vol",
        "ed",
        "approx",
        "dept",
        "tel",
        "bzw",
        "usw",
        "evtl",
        "ggf",
        "inkl",
        "str",
        "hr",
        "fr",
        "mme",
        "sra",
        "gen",
        "col",
        "capt",
        "rev",
        "hon",
        "vgl",
        "abs",
        "ca",
    )
)
"Words whose period seldom ends a sentence, without it."


@dataclass(frozen=True)
class Piece:
    """A part of a text that cuts leave whole."""

    start: int
    "Offset of its first character, a line's indentation included."
    end: int
    "Offset after its last character that is no space."
    cost: float
    "How bad it is that a page starts here, in pages."
    heading: str = ""
    "The heading of the section that it continues."
    header: str = ""
    "The header of the table of which it starts a row."


@dataclass(frozen=True)
class _Line:
    start: int
    text: str  # without spaces at its end
    code: bool  # of a program, or between fences, or a fence
    fence: bool

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def first_word(self) -> str:
        return self.text.split(maxsplit=1)[0]


_Lines = list[_Line]


def find_pieces(text: str) -> list[Piece]:
    """Take a text apart at every place where a page may start.

    Args:
        text: Any text whose lines end with a line feed.

    Returns:
        Its pieces, in order; between them is only white space, and none where there is no word.
    """
    pieces: list[Piece] = []
    heading = ""
    before: _Lines = []
    for block in _read_blocks(text):
        level = _heading_level(block)
        cost = BLOCK if level is None else SUBSECTION * (level - 1)
        cost += _kept_with(before)
        first = Piece(0, 0, cost, heading if level is None else "")
        pieces += [piece for one in _block_pieces(first, block) for piece in _sentences(text, one)]
        if level is not None:
            heading = block[0].text.strip()
        before = block
    return pieces


def _read_lines(text: str) -> _Lines:
    """The lines, of blank ones that follow each other only the first."""
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
    """Whether a text is a program rather than something that people wrote to people."""
    return 0 < CODE_SHARE * len(lines) <= sum(bool(CODE.match(line)) for line in lines)


def _read_blocks(text: str) -> Iterator[_Lines]:
    """The lines between blank lines, and each heading by itself."""
    block: _Lines = []
    for line in _read_lines(text):
        if not line.text or _is_marked_heading(line):
            yield from _without_title(block)
            block = []
        if not line.text:
            continue
        if _is_marked_heading(line):
            yield [line]
        else:
            block.append(line)
    yield from _without_title(block)


def _without_title(block: _Lines) -> Iterator[_Lines]:
    """Part a block from the underlined heading that it may begin with."""
    title = 2 if _is_underlined(block[:2]) else 0
    yield from filter(None, (block[:title], block[title:]))


def _is_marked_heading(line: _Line) -> bool:
    return not line.code and HEADING.match(line.text) is not None


def _is_underlined(lines: _Lines) -> bool:
    if len(lines) < 2 or any(line.code for line in lines) or not UNDERLINE.match(lines[1].text):
        return False
    return not (ITEM.match(lines[0].text) or UNDERLINE.match(lines[0].text))


def _heading_level(block: _Lines) -> int | None:
    """1 for the highest; None for what is no heading."""
    if _is_marked_heading(block[0]):
        return len(block[0].text) - len(block[0].text.lstrip("#"))
    if _is_underlined(block) and len(block) == 2:
        return 1 if block[1].text.startswith("=") else 2
    return None


def _kept_with(block: _Lines) -> float:
    """What a cut costs more because of the block before it."""
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
    return LEAD_IN if is_title else _introduced_by(last)


def _introduced_by(line: _Line) -> float:
    return LEAD_IN if line.text.endswith((":", "：")) else 0.0  # noqa: RUF001


def _block_pieces(first: Piece, block: _Lines) -> Iterator[Piece]:
    """The lines of a block, those together that a sentence may run across.

    Args:
        first: Its cost and heading are those of the first piece.
        block: The lines.
    """
    header, row = _find_header(block)
    is_whole = first.heading == "" and _heading_level(block) is not None
    starts = [0] if is_whole or _is_wrapped(block) else _unit_starts(block)
    for at, until in pairwise([*starts, len(block)]):
        line = block[at]
        cost = first.cost if at == 0 else LINE + _introduced_by(block[at - 1])
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
    """The lines that do not go on with an item of a list by being indented under it."""
    starts, in_item = [], False
    for at, line in enumerate(block):
        is_item = not line.code and ITEM.match(line.text) is not None
        goes_on = in_item and not is_item and line.text[0].isspace()
        if not goes_on:
            starts.append(at)
            in_item = is_item
    return starts


def _is_wrapped(block: _Lines) -> bool:
    """Whether a paragraph's lines end only because the next word had no room."""
    width = max(len(line.text) for line in block)
    if len(block) < 2 or width < WRAPPED_WIDTH or block[0].code:
        return False
    if any(ITEM.match(line.text) or line.text.startswith("|") for line in block):
        return False
    if any(len(one.text) + 1 + len(after.first_word) <= width for one, after in pairwise(block)):
        return False
    going_on = sum(line.first_word[0].islower() for line in block[1:])
    return 3 * going_on >= len(block) - 1


def _find_header(block: _Lines) -> tuple[int, int]:
    """Which line is the header of a table and which its first row; beyond the block if none is."""
    none = len(block), len(block)
    if block[0].code:
        return none
    for at, line in enumerate(block[1:], 1):
        if "|" in line.text and RULE.match(line.text) and "|" in block[at - 1].text:
            return at - 1, at + 1
    return (0, 1) if _has_column_names([line.text for line in block]) else none


def _has_column_names(lines: list[str]) -> bool:
    """Whether lines are of equally many cells, and the first names the others' columns."""
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


def _sentences(text: str, piece: Piece) -> Iterator[Piece]:
    """Cut a piece after each of its sentences."""
    start, inner = piece.start, replace(piece, cost=SENTENCE, header="")
    now = piece
    for match in SENTENCE_END.finditer(text, piece.start, piece.end):
        if match.end() < piece.end and _is_end(text, match):
            yield replace(now, start=start, end=match.start() + len(match[0].rstrip()))
            start, now = match.end(), inner
    yield replace(now, start=start, end=piece.end)


def _is_end(text: str, match: re.Match[str]) -> bool:
    if text[match.end()].islower():
        return False
    if match[0].rstrip() != ".":
        return True
    words = text[max(0, match.start() - 12) : match.start()].split()
    word = words[-1].strip("(\"'“„*_") if words else ""
    if word.isdigit():
        return len(word) > 2  # "3. Mai"
    return len(word) > 1 and "." not in word and word.lower() not in ABBREVIATIONS

"""A text into pages of a few tokens, cut where people would cut it.

`gradmem_core/texts/outline.py` takes the text apart into pieces (sentences, or whole lines where
those are shorter) and says how bad a cut before each of them is: nearly nothing before a heading,
little at a blank line, more at the end of a line, half a page between sentences, a page between
words, and so much after a heading that a heading is never the last line of a page.
`gradmem_core/texts/cutting.py` cuts pieces that do not fit on a page.

Of all ways to distribute the pieces over pages the cheapest is taken, where a page costs

    1 + EVENNESS * (the share of it that stays empty)^2 + the cost of the cut before it

so that there are few pages, about equally long, that end where the text pauses. Where this needs
more pages than allowed, the way with the fewest pages is taken.

A page that continues a section starts with the section's heading, and a page that continues a table
with the table's header, where they take at most a quarter of the page and there is room for them (a
page without them costs WITHOUT_HEAD more). Carriage returns at line ends, a byte order mark, and
the blank lines and spaces between pages are dropped; every other character of the text is on
exactly one page.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from gradmem_core.errors import BinaryTextError, EmptyContextError, UnknownCharactersError
from gradmem_core.limits import check_pages
from gradmem_core.texts.cutting import PieceCutter, word_too_long
from gradmem_core.texts.outline import Piece
from gradmem_core.tokenizer import Tokenizer, check_surrogates

EVENNESS = 0.5
"Cost of a page that is all but empty, in pages."
WITHOUT_HEAD = 0.3
"Cost of a page without room for the heading or header that it continues, in pages."
FEWEST = 1000.0
"Cost of a page where only the number of pages counts."
CARRIED = 4
"The repeated heading and header of a page take at most one in so many of its tokens."
MAX_NAMED = 5
"Most control characters that an error names."

CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
LINE_END = re.compile(r"\r\n?")


@dataclass(frozen=True)
class Page:
    """A part of a document from which one WRITE makes a page of a memory."""

    ids: list[int]
    "Token ids of the page."
    records: int | None = None
    "Records on the page; None for a text."
    text: str = ""
    "A part of the document, after the heading or header that it continues; empty for records."
    lines: tuple[int, ...] = ()
    """Number of each line of the text in the document, from 1; 0 for a repeated heading or header.
    Empty for records."""

    @property
    def first_line(self) -> int | None:
        """Number of the first line in the document, from 1; None for records."""
        return min(filter(None, self.lines), default=None)

    @property
    def last_line(self) -> int | None:
        """Number of the last line in the document, from 1; None for records."""
        return max(self.lines, default=None)


def split_text(
    tokenizer: Tokenizer, text: str, *, page_tokens: int, max_pages: int, carry: bool = True
) -> list[Page]:
    """Split a text into pages.

    Args:
        tokenizer: Counts the tokens.
        text: Any plain text.
        page_tokens: Most tokens of a page.
        max_pages: Most pages.
        carry: Whether a page that continues a section or a table repeats its heading or header.

    Raises:
        EmptyContextError: The text has no words.
        BinaryTextError: The text has control characters.
        UnknownCharactersError: The text has characters outside the vocabulary.
        WordTooLongError: A word that cannot be cut has more than `page_tokens` tokens.
        TooManyPagesError: The text needs more than `max_pages`.
    """
    check_surrogates(text)
    _check_plain(text)
    plain = LINE_END.sub("\n", text.removeprefix("\ufeff"))
    words = "".join(plain.split())
    if not words:
        raise EmptyContextError("the document is empty; send a text")
    # Checked before tokens are counted, which takes time, and again before pages are sought.
    check_pages(-(-tokenizer.count_fewest_tokens(words) // page_tokens), max_pages)
    ends = _find_token_ends(tokenizer, plain, text)
    # Half of them: a page's first word may have fewer tokens than it has after a space.
    tokens = sum(not plain[end - 1].isspace() for end in ends) // 2
    check_pages(-(-tokens // page_tokens), max_pages)

    pieces = list(PieceCutter(tokenizer, plain, page_tokens=page_tokens).pieces())
    fill = partial(_Paginator, tokenizer, plain, pieces, ends, page_tokens=page_tokens)
    pages = fill(page_cost=1.0, carry=carry).paginate()
    if len(pages) > max_pages:
        pages = fill(page_cost=FEWEST, carry=False).paginate()
    check_pages(len(pages), max_pages)
    return pages


def _check_plain(text: str) -> None:
    """Refuse control characters."""
    positions = [match.start() for match in CONTROL.finditer(text)]
    if positions:
        named = positions[:MAX_NAMED]
        characters = ", ".join(
            f"U+{ord(text[position]):04X} at {position} (line {_line_number(text, position)})"
            for position in named
        )
        count = (
            "1 control character" if len(positions) == 1 else f"{len(positions)} control characters"
        )
        more = ", ..." if len(positions) > len(named) else ""
        raise BinaryTextError(
            f"the document has {count}: {characters}{more} (positions from 0); send plain text in"
            " UTF-8",
            positions=named,
        )


def _line_number(text: str, position: int) -> int:
    return LINE_END.sub("\n", text[:position]).count("\n") + 1


def _find_token_ends(tokenizer: Tokenizer, plain: str, text: str) -> list[int]:
    """Find the ends of the tokens of `plain`, in order."""
    try:
        return sorted(tokenizer.find_token_ends(plain))
    except UnknownCharactersError:
        tokenizer.encode(text)  # raises with positions in the document as it was sent
        raise


class _Paginator:
    """Finds the cheapest way to distribute the pieces of a text over pages.

    Args:
        tokenizer: Counts the tokens.
        text: The text, with line feeds as line ends.
        pieces: Pieces of the text, in order.
        ends: Ends of its tokens.
        page_tokens: Most tokens of a page.
        page_cost: Cost of a page.
        carry: Whether pages repeat headings and headers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text: str,
        pieces: Sequence[Piece],
        ends: Sequence[int],
        *,
        page_tokens: int,
        page_cost: float,
        carry: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._pieces = pieces
        self._limit = page_tokens
        self._page_cost = page_cost
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        # The tokens of a page are estimated as those that end within it: its first word may have
        # other tokens than it has after a space. They are counted exactly before a page is made.
        self._tokens_before = [bisect_right(ends, piece.start) for piece in pieces]
        self._tokens_up_to = [bisect_right(ends, piece.end) for piece in pieces]
        self._heads = self._carried_heads() if carry else [("", 0)] * len(pieces)
        "For each piece the lines that a page which starts with it repeats, and their tokens."

    def paginate(self) -> list[Page]:
        """Return the pages that cost least together."""
        least = self._least_costs()
        pages = []
        start = 0
        while start < len(self._pieces):
            page, start = self._best_page(start, least)
            pages.append(page)
        return pages

    def _carried_heads(self) -> list[tuple[str, int]]:
        heads = {("", ""): ("", 0)}
        for piece in self._pieces:
            key = (piece.heading, piece.header)
            if key not in heads:
                heads[key] = self._carried_head(piece)
        return [heads[piece.heading, piece.header] for piece in self._pieces]

    def _carried_head(self, piece: Piece) -> tuple[str, int]:
        """Return the lines that a page which starts with a piece repeats, and their tokens."""
        heading, header = piece.heading, piece.header
        for lines in ((heading, header), (header,), (heading,)):
            head = "".join(f"{line}\n" for line in lines if line)
            tokens = len(self._tokenizer.encode(head))
            if head and tokens * CARRIED <= self._limit:
                return head, tokens
        return "", 0

    def _least_costs(self) -> list[float]:
        """Return for each piece the least cost of the pages from there to the end."""
        least = [0.0] * (len(self._pieces) + 1)
        for start in reversed(range(len(self._pieces))):
            least[start] = min(cost for cost, _, _ in self._choices(start, least))
        return least

    def _choices(self, start: int, least: Sequence[float]) -> Iterator[tuple[float, int, str]]:
        """Enumerate the pages that may start with a piece.

        Yields:
            The cost of the page and of all after it, the next piece, and the repeated lines.
        """
        head, head_tokens = self._heads[start]
        for after in range(start + 1, len(self._pieces) + 1):
            tokens = self._tokens_up_to[after - 1] - self._tokens_before[start]
            if tokens > self._limit and after > start + 1:
                return
            cost = self._page_cost + least[after]
            if tokens + head_tokens <= self._limit:
                tokens += head_tokens
            else:  # and so for all longer pages
                head, cost = "", cost + WITHOUT_HEAD
            if after < len(self._pieces):
                cost += self._pieces[after].cost
            empty = 1 - min(tokens / self._limit, 1)
            yield cost + EVENNESS * empty * empty, after, head

    def _best_page(self, start: int, least: Sequence[float]) -> tuple[Page, int]:
        """Return the cheapest page that starts with a piece, and the next piece."""
        for _, after, head in sorted(self._choices(start, least)):
            if page := self._page(start, after, head):
                return page, after
        if page := self._page(start, start + 1, ""):
            return page, start + 1
        piece = self._pieces[start]
        word = self._text[piece.start : piece.end]
        line = self._line_number(piece.start)
        raise word_too_long(self._tokenizer, word, line, page_tokens=self._limit)

    def _page(self, start: int, after: int, head: str) -> Page | None:
        """Make a page of pieces; None where it has too many tokens."""
        first, last = self._pieces[start].start, self._pieces[after - 1].end
        text = head + self._text[first:last]
        ids = self._tokenizer.encode(text)
        if len(ids) > self._limit:
            return None
        lines = range(self._line_number(first), self._line_number(last) + 1)
        return Page(ids, text=text, lines=(0,) * head.count("\n") + tuple(lines))

    def _line_number(self, position: int) -> int:
        return bisect_right(self._line_ends, position - 1) + 1

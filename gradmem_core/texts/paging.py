"""A text into pages of a few tokens, cut where people would cut it.

`gradmem_core.texts.outline` takes the text apart into pieces (sentences, or whole lines where those
are shorter) and says how bad a cut before each of them is: nearly nothing before a heading, little
at a blank line, more at the end of a line, half a page between sentences, a page between words, and
so much after a heading that it never is the last line of a page. A piece that no page has room for
is cut between words, and a word that none has room for at Unicode's word boundaries (UAX 29)
outside of grapheme clusters; what then is still too long is refused.

Of all ways to share the pieces among pages the one is taken that costs least, where a page costs

    1 + EVENNESS * (the share of it that stays empty)^2 + the cost of the cut before it

so that there are few pages, about equally long, that end where the text pauses. Where these would
be more pages than are allowed, it is the one of fewest pages.

A page that goes on in the middle of a section starts with the section's heading, one that goes on
in a table with the table's header, where they take at most a quarter of the page and there is room
for them (a page without costs WITHOUT_HEAD more). Dropped are line
ends' carriage returns, a byte order mark, and the blank lines and spaces between pages; else every
character of the text is on one page.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import regex

from gradmem_core.errors import (
    BinaryTextError,
    EmptyContextError,
    TooManyPagesError,
    UnknownCharactersError,
    WordTooLongError,
)
from gradmem_core.texts.outline import CHARACTERS, ORPHAN, WORDS, Piece, find_pieces
from gradmem_core.tokenizer import Tokenizer, check_surrogates

EVENNESS = 0.5
"Cost of a page that is all but empty, in pages."
WITHOUT_HEAD = 0.3
"Cost of a page that has no room for the heading or header that it goes on under, in pages."
FEWEST = 1000.0
"Cost of a page where nothing else than their number counts."
CARRIED = 4
"A heading and a table's header that a page repeats take at most one in so many of its tokens."
NAMED = 5
"Most control characters that an error names."

CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
LINE_END = re.compile(r"\r\n?")
WORD = re.compile(r"\S+")
WORD_BOUNDARY = regex.compile(r"(?w)\b")
GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class TextPage:
    """A part of a document that one memory is written from."""

    text: str
    "What is written: a part of the document, after the heading or header that it goes on under."
    ids: list[int]
    "Its tokens."
    first_line: int
    "Number in the document, from 1, of its first line; what it repeats does not count."
    last_line: int
    "Number of its last line."


def split_text(
    tokenizer: Tokenizer, text: str, *, page_tokens: int, max_pages: int, carry: bool = True
) -> list[TextPage]:
    """Share a text among pages.

    Args:
        tokenizer: What counts tokens.
        text: Any plain text.
        page_tokens: Most tokens of a page.
        max_pages: Most pages.
        carry: Whether a page that goes on in a section or a table repeats its heading or header.

    Raises:
        EmptyContextError: There is no word in it.
        BinaryTextError: There are control characters in it.
        UnknownCharactersError: There are characters outside the vocabulary.
        WordTooLongError: A word that cannot be cut has more than `page_tokens` tokens.
        TooManyPagesError: More than `max_pages` would be needed.
    """
    check_surrogates(text)
    _check_plain(text)
    plain = LINE_END.sub("\n", text.removeprefix("\ufeff"))
    words = "".join(plain.split())
    if not words:
        raise EmptyContextError("the document is empty; send a text")
    # Before tokens are counted, which takes time, and again before pages are sought.
    fewest = tokenizer.count_fewest_tokens(words)
    _check_pages(-(-fewest // page_tokens), max_pages, page_tokens)
    ends = _token_ends(tokenizer, plain, text)
    # Half of them: a page's first word may have fewer tokens than it has after a space.
    most = sum(not plain[end - 1].isspace() for end in ends) // 2
    _check_pages(-(-most // page_tokens), max_pages, page_tokens)

    splitter = _Splitter(tokenizer, plain, ends, page_tokens=page_tokens, carry=carry)
    pages = splitter.split(page_cost=1.0)
    if len(pages) > max_pages:
        splitter = _Splitter(tokenizer, plain, ends, page_tokens=page_tokens, carry=False)
        pages = splitter.split(page_cost=FEWEST)
    _check_pages(len(pages), max_pages, page_tokens)
    return pages


def _check_plain(text: str) -> None:
    places = [match.start() for match in CONTROL.finditer(text)]
    if places:
        first = places[:NAMED]
        named = ", ".join(
            f"U+{ord(text[place]):04X} at {place} (line {_line_of(text, place)})" for place in first
        )
        raise BinaryTextError(
            f"the document holds {len(places)} control characters, the first (positions from 0):"
            f" {named}; send plain text in UTF-8",
            positions=first,
        )


def _line_of(text: str, place: int) -> int:
    return LINE_END.sub("\n", text[:place]).count("\n") + 1


def _check_pages(pages: int, most: int, page_tokens: int) -> None:
    if pages > most:
        raise TooManyPagesError(
            f"the document would take {pages} or more pages of {page_tokens} tokens and at most"
            f" {most} are allowed (GRADMEM_MAX_PAGES); write it as several memories",
            limit=most,
        )


def _token_ends(tokenizer: Tokenizer, plain: str, text: str) -> list[int]:
    """Where the tokens of a text end, in order."""
    try:
        return sorted(tokenizer.find_token_ends(plain))
    except UnknownCharactersError:
        tokenizer.encode(text)  # so that positions are those of the document as it was sent
        raise


class _Splitter:
    """One text, with what is known of its pieces.

    Args:
        tokenizer: What counts tokens.
        text: The text, its lines ending with a line feed.
        ends: Where its tokens end.
        page_tokens: Most tokens of a page.
        carry: Whether pages repeat headings and headers.
    """

    def __init__(
        self, tokenizer: Tokenizer, text: str, ends: list[int], *, page_tokens: int, carry: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._limit = page_tokens
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._pieces = list(self._fitting_pieces())
        carried = {("", ""): ("", 0)}
        for piece in self._pieces if carry else []:
            key = (piece.heading, piece.header)
            if key not in carried:
                carried[key] = self._carried(piece)
        self._heads = [
            carried.get((piece.heading, piece.header), ("", 0)) for piece in self._pieces
        ]
        # Tokens of a page are those that end within it, all but exactly: its first word may have
        # other tokens than it has after a space. A page's own tokens are counted before it is made.
        self._begins = [bisect_right(ends, piece.start) for piece in self._pieces]
        self._stops = [bisect_right(ends, piece.end) for piece in self._pieces]

    def split(self, *, page_cost: float) -> list[TextPage]:
        """The pages that cost least together."""
        least = self._least_costs(page_cost)
        pages = []
        start = 0
        while start < len(self._pieces):
            page, start = self._best_page(start, least, page_cost)
            pages.append(page)
        return pages

    def _least_costs(self, page_cost: float) -> list[float]:
        """For each piece, what the pages from there to the end cost at least."""
        least = [0.0] * (len(self._pieces) + 1)
        for start in reversed(range(len(self._pieces))):
            least[start] = min(cost for cost, _, _ in self._choices(start, least, page_cost))
        return least

    def _choices(
        self, start: int, least: list[float], page_cost: float
    ) -> Iterator[tuple[float, int, str]]:
        """Which pages may start with a piece.

        Yields:
            What the page and all after it cost, the piece that comes next, and what is repeated.
        """
        head, head_tokens = self._heads[start]
        for after in range(start + 1, len(self._pieces) + 1):
            tokens = self._stops[after - 1] - self._begins[start]
            if tokens > self._limit and after > start + 1:
                return
            cost = page_cost + least[after]
            if tokens + head_tokens <= self._limit:
                tokens += head_tokens
            else:  # and so for all that are longer
                head, cost = "", cost + WITHOUT_HEAD
            if after < len(self._pieces):
                cost += self._pieces[after].cost
            empty = 1 - min(tokens / self._limit, 1)
            yield cost + EVENNESS * empty * empty, after, head

    def _best_page(self, start: int, least: list[float], page_cost: float) -> tuple[TextPage, int]:
        """The page from a piece on that costs least, and the piece that comes next."""
        for _, after, head in sorted(self._choices(start, least, page_cost)):
            if page := self._page(start, after, head):
                return page, after
        if page := self._page(start, start + 1, ""):
            return page, start + 1
        raise self._too_long(self._pieces[start].start, self._pieces[start].end)

    def _page(self, start: int, after: int, head: str) -> TextPage | None:
        """A page of pieces, None where it has too many tokens."""
        first, last = self._pieces[start].start, self._pieces[after - 1].end
        text = head + self._text[first:last]
        ids = self._tokenizer.encode(text)
        if len(ids) > self._limit:
            return None
        return TextPage(text, ids, self._line(first), self._line(last))

    def _line(self, place: int) -> int:
        return bisect_right(self._line_ends, place - 1) + 1

    def _carried(self, piece: Piece) -> tuple[str, int]:
        """What a page that starts with a piece repeats, and its tokens."""
        heading, header = piece.heading, piece.header
        for lines in ((heading, header), (header,), (heading,)):
            head = "".join(f"{line}\n" for line in lines if line)
            tokens = len(self._tokenizer.encode(head))
            if head and tokens * CARRIED <= self._limit:
                return head, tokens
        return "", 0

    def _fitting_pieces(self) -> Iterator[Piece]:
        """The pieces of the text, those cut further that no page has room for."""
        opening = 0
        for piece in find_pieces(self._text):
            # A heading needs room for what follows it; a row has its header on another page too.
            if piece.cost < ORPHAN or piece.header:
                opening = piece.start
            if self._has_room(opening if piece.heading else piece.start, piece.end):
                yield piece
            else:
                yield from self._cut(piece)

    def _cut(self, piece: Piece) -> Iterator[Piece]:
        """Cut a piece between words, into runs of at most about an eighth of a page."""
        inner = replace(piece, header="")
        now = replace(piece, end=piece.start)
        for start, end, cost in self._words(piece):
            if now.end == piece.start:
                now = replace(piece, start=start, end=end)
            elif self._bytes(now.start, end) > self._limit // 2:
                yield now
                now = replace(inner, start=start, end=end, cost=cost)
            else:
                now = replace(now, end=end)
        yield now

    def _words(self, piece: Piece) -> Iterator[tuple[int, int, float]]:
        """Where each word starts and ends, and the cost of a cut before it."""
        for match in WORD.finditer(self._text, piece.start, piece.end):
            if self._has_room(*match.span()):
                yield *match.span(), WORDS
                continue
            cost = WORDS
            for start, end in self._parts(*match.span()):
                yield start, end, cost
                cost = CHARACTERS

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a run of characters without a space at the boundaries of Unicode's words."""
        run = self._text[start:end]
        clusters = {match.end() for match in GRAPHEME.finditer(run)}
        last = 0
        for boundary in (match.end() for match in WORD_BOUNDARY.finditer(run)):
            if boundary > last and boundary in clusters:
                if not self._has_room(start + last, start + boundary):
                    raise self._too_long(start + last, start + boundary)
                yield start + last, start + boundary
                last = boundary

    def _has_room(self, start: int, end: int) -> bool:
        """Whether a page has room for a part of the text."""
        if self._bytes(start, end) < self._limit:
            return True  # no tokenizer has more tokens than bytes, and one for the beginning
        # Not `encode`: this may be a megabyte of spaces, and others wait for the lock.
        return len(self._tokenizer.find_token_ends(self._text[start:end])) <= self._limit

    def _bytes(self, start: int, end: int) -> int:
        return len(self._text[start:end].encode())

    def _too_long(self, start: int, end: int) -> WordTooLongError:
        tokens = len(self._tokenizer.encode(self._text[start:end]))
        return WordTooLongError(
            f"line {self._line(start)}: a word has {tokens} tokens and a page takes at most"
            f" {self._limit}; shorten it or part it by spaces",
            limit=self._limit,
        )

"""Pieces of a text that fit on a page: what `find_pieces` finds, cut further where it is too long.

A piece that does not fit on a page is cut between words, and a word that does not fit is cut at
Unicode's word boundaries (UAX 29), never inside a grapheme cluster. A part that is still too long
is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import regex

from gradmem_core.errors import WordTooLongError
from gradmem_core.texts.outline import CHARACTERS, ORPHAN, WORDS, Piece, find_pieces
from gradmem_core.tokenizer import Tokenizer

WORD = re.compile(r"\S+")
WORD_BOUNDARY = regex.compile(r"(?w)\b")
GRAPHEME = regex.compile(r"\X")


class PieceCutter:
    """Cuts a text into pieces that fit on a page.

    Args:
        tokenizer: Counts the tokens.
        text: The text, with line feeds as line ends.
        page_tokens: Most tokens of a page.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, *, page_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._limit = page_tokens

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of the text in order.

        Raises:
            WordTooLongError: A word that cannot be cut does not fit on a page.
        """
        opening = 0
        for piece in find_pieces(self._text):
            # A heading needs room for what follows it; a row has its header on another page too.
            if piece.cost < ORPHAN or piece.header:
                opening = piece.start
            if self._fits(opening if piece.heading else piece.start, piece.end):
                yield piece
            else:
                yield from self._cut(piece)

    def _cut(self, piece: Piece) -> Iterator[Piece]:
        """Cut a piece between words, into runs of at most about an eighth of a page."""
        inner = replace(piece, header="")
        run = replace(piece, end=piece.start)
        for start, end, cost in self._words(piece):
            if run.end == piece.start:
                run = replace(piece, start=start, end=end)
            elif self._count_bytes(run.start, end) > self._limit // 2:
                yield run
                run = replace(inner, start=start, end=end, cost=cost)
            else:
                run = replace(run, end=end)
        yield run

    def _words(self, piece: Piece) -> Iterator[tuple[int, int, float]]:
        """Yield the start and end of each word, and the cost of a cut before it."""
        for match in WORD.finditer(self._text, piece.start, piece.end):
            if self._fits(*match.span()):
                yield *match.span(), WORDS
                continue
            cost = WORDS
            for start, end in self._word_parts(*match.span()):
                yield start, end, cost
                cost = CHARACTERS

    def _word_parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a run of characters without a space at the boundaries of Unicode's words."""
        run = self._text[start:end]
        clusters = {match.end() for match in GRAPHEME.finditer(run)}
        last = 0
        for boundary in (match.end() for match in WORD_BOUNDARY.finditer(run)):
            if boundary > last and boundary in clusters:
                if not self._fits(start + last, start + boundary):
                    word = run[last:boundary]
                    line = self._text.count("\n", 0, start) + 1
                    raise word_too_long(self._tokenizer, word, line, page_tokens=self._limit)
                yield start + last, start + boundary
                last = boundary

    def _fits(self, start: int, end: int) -> bool:
        """Tell whether a part of the text fits on a page."""
        if self._count_bytes(start, end) < self._limit:
            return True  # no tokenizer has more tokens than bytes, and one for the beginning
        # Not `encode`: this may be a megabyte of spaces, and other threads wait for the lock.
        return len(self._tokenizer.find_token_ends(self._text[start:end])) <= self._limit

    def _count_bytes(self, start: int, end: int) -> int:
        return len(self._text[start:end].encode())


def word_too_long(
    tokenizer: Tokenizer, word: str, line: int, *, page_tokens: int
) -> WordTooLongError:
    """Build the error for a word that cannot be cut and does not fit on a page.

    Args:
        tokenizer: Counts the tokens.
        word: The word.
        line: Number of its line, from 1.
        page_tokens: Most tokens of a page.
    """
    return WordTooLongError(
        f"line {line}: a word has {len(tokenizer.encode(word))} tokens and a page takes at most"
        f" {page_tokens}; shorten the word or split it with spaces",
        limit=page_tokens,
    )

"""Properties of the pages of any text."""

from itertools import accumulate, combinations, pairwise
from math import inf

import pytest
import regex
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gradmem_core.errors import EmptyContextError, TooManyPagesError, WordTooLongError
from gradmem_core.texts.outline import find_pieces
from gradmem_core.texts.paging import EVENNESS, Page, split_text
from gradmem_core.tokenizer import Tokenizer
from tests.core.pages import FAMILY, TOKENIZER, split, tokens, without_space

FRAGMENTS = [
    *("# ", "## ", "===\n", "---\n", "- ", "1. ", "| a | b |\n", "|---|---|\n", "| 1 | 2 |\n"),
    *(
        "x,y,n\n",
        "a,b,1\n",
        "c,d,2\n",
        "```\n",
        "    ",
        "\t",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
    ),
    *(
        "tower",
        "The river",
        "Mr. ",
        "3. ",
        "z. B. ",
        ". ",
        "! ",
        "?”",
        ": ",
        "ä",
        "\u00a0",
        "\u2028",
    ),
    *("你好。", "世界", "สวัสดี", FAMILY, "🇩🇪", "e\u0301", "https://a.org/b?c=d", "ab" * 20, "\f"),
]
LAID_OUT = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=60).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60)
TEXT = st.one_of(LAID_OUT, ANY, st.tuples(LAID_OUT, ANY, LAID_OUT).map("".join))
PAGE_TOKENS = st.sampled_from([1, 4, 12, 30, 64])


def pages_or_word(text: str, page_tokens: int, *, carry: bool) -> list[Page] | None:
    """Split a text; return None where a word is really too long or there is none."""
    try:
        return split(text, page_tokens, carry=carry)
    except EmptyContextError:
        assert not without_space(text.removeprefix("\ufeff"))
    except WordTooLongError:
        assert max(map(tokens, text.split())) > page_tokens
    return None


@given(TEXT, PAGE_TOKENS)
@example("    tower", 1)
@example("你好。##\n你好。##", 30)
@example("tower  \n\n   x", 4)
def test_every_word_is_on_a_page_once_and_in_order(text: str, page_tokens: int) -> None:
    pages = pages_or_word(text, page_tokens, carry=False)
    if pages is None:
        return
    words = text.removeprefix("\ufeff").split()
    found = [word for page in pages for word in page.text.split()]
    assert "".join(found) == "".join(words)
    if all(tokens(word) <= page_tokens for word in words) and not set(text) & set("。！？"):  # noqa: RUF001
        assert found == words
    whole = [cluster for word in words for cluster in regex.findall(r"\X", word)]
    assert [cluster for word in found for cluster in regex.findall(r"\X", word)] == whole


@given(TEXT, PAGE_TOKENS)
def test_a_page_repeats_at_most_two_lines_before_its_own(text: str, page_tokens: int) -> None:
    pages = pages_or_word(text, page_tokens, carry=True)
    if pages is None:
        return
    whole = without_space(text.removeprefix("\ufeff"))
    places = {0}
    for page in pages:
        lines = page.text.split("\n")
        bodies = {without_space("\n".join(lines[repeated:])) for repeated in range(3)} - {""}
        places = {
            place + len(body)
            for place in places
            for body in bodies
            if whole.startswith(body, place)
        }
    assert len(whole) in places


@given(TEXT, PAGE_TOKENS, st.booleans())
def test_a_page_has_tokens_and_at_most_as_many_as_allowed(
    text: str, page_tokens: int, carry: bool
) -> None:
    for page in pages_or_word(text, page_tokens, carry=carry) or []:
        assert page.ids == TOKENIZER.encode(page.text)
        assert 1 <= len(page.ids) <= page_tokens
        assert page.text == page.text.rstrip()
        assert page.text.split("\n")[0].strip()


@given(TEXT, PAGE_TOKENS)
def test_lines_are_numbered_as_they_stand_in_the_document(text: str, page_tokens: int) -> None:
    lines = regex.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    pages = pages_or_word(text, page_tokens, carry=False) or []
    for page in pages:
        own = page.text.split("\n")
        originals = [lines[number - 1] for number in page.lines]
        assert all(part in line for part, line in zip(own, originals, strict=True))
        assert own[1:-1] == originals[1:-1]
        assert (page.first_line, page.last_line) == (page.lines[0], page.lines[-1])
        assert all(later == line + 1 for line, later in pairwise(page.lines))
    assert all(page.lines[-1] <= after.lines[0] for page, after in pairwise(pages))


@given(TEXT, PAGE_TOKENS, st.booleans())
def test_a_text_is_always_split_alike(text: str, page_tokens: int, carry: bool) -> None:
    first = pages_or_word(text, page_tokens, carry=carry)
    assert pages_or_word(text, page_tokens, carry=carry) == first


@given(LAID_OUT, PAGE_TOKENS)
def test_line_ends_make_no_difference(text: str, page_tokens: int) -> None:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pages = pages_or_word(text, page_tokens, carry=True)
    assert pages_or_word("\ufeff" + text.replace("\n", "\r\n"), page_tokens, carry=True) == pages
    assert pages_or_word(text.replace("\n", "\r"), page_tokens, carry=True) == pages


LETTERS = Tokenizer.from_characters("ABCab.# \n")


@given(
    st.lists(
        st.sampled_from(["# A", "## B", "A b.", "Ab a a.", "C", "\n"]), min_size=1, max_size=9
    ),
    st.sampled_from([12, 20, 30]),
)
def test_no_other_split_costs_less(lines: list[str], page_tokens: int) -> None:
    text = "\n".join([*lines, "A"])
    pieces = find_pieces(text)

    def cost(starts: tuple[int, ...]) -> float:
        total = 0.0
        for start, after in pairwise([0, *starts, len(pieces)]):
            empty = 1 - (pieces[after - 1].end - pieces[start].start) / page_tokens
            if empty < 0:
                return inf
            total += 1 + EVENNESS * empty**2 + (pieces[start].cost if start else 0)
        return total

    places = range(1, len(pieces))
    least = min(cost(some) for n in range(len(pieces)) for some in combinations(places, n))
    pages = split_text(LETTERS, text, page_tokens=page_tokens, max_pages=99, carry=False)
    # A page of so many characters other than space ends after so many pieces.
    parts = accumulate(len(without_space(text[piece.start : piece.end])) for piece in pieces)
    ends = {size: at for at, size in enumerate(parts, 1)}
    sizes = list(accumulate(len(without_space(page.text)) for page in pages))
    assume(ends.keys() >= set(sizes))  # a heading has room for what follows it
    chosen = [ends[size] for size in sizes]
    assert cost(tuple(chosen[:-1])) == pytest.approx(least)


def fewest_pages(words: list[str], page_tokens: int) -> int:
    """Count the pages that are needed where a page may end after any word."""
    pages, page = 1, ""
    for word in words:
        if page and tokens(f"{page} {word}") > page_tokens:
            pages, page = pages + 1, ""
        page = f"{page} {word}" if page else word
    return pages


@given(
    st.lists(st.sampled_from(["The tower.", "river", "1889.", "fox", "market"]), min_size=1),
    st.sampled_from([6, 10, 16]),
)
def test_few_pages_are_made_where_no_more_are_allowed(words: list[str], page_tokens: int) -> None:
    text = "\n\n".join(words)
    most = len(split(text, page_tokens))
    tight = min(range(1, most + 1), key=lambda allowed: not fits(text, page_tokens, allowed))
    assert all(fits(text, page_tokens, allowed) for allowed in range(tight, most + 1))
    assert tight >= fewest_pages(" ".join(words).split(), page_tokens)


def fits(text: str, page_tokens: int, max_pages: int) -> bool:
    try:
        return len(split(text, page_tokens, max_pages=max_pages)) <= max_pages
    except TooManyPagesError:
        return False

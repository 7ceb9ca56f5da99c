"""Texts into pages: nothing lost, nothing too long, and cut where people would cut."""

import pytest
import regex

from gradmem_core.errors import (
    BinaryTextError,
    EmptyContextError,
    TooManyPagesError,
    UnknownCharactersError,
    WordTooLongError,
)
from gradmem_core.texts.paging import split_text
from gradmem_core.tokenizer import Tokenizer
from tests.core.pages import FAMILY, split, texts, tokens


def test_fewer_pages_are_sought_where_a_nicer_split_has_too_many() -> None:
    text = "# The old town\n\n" + "The river.\n" * 240
    nice = split(text, 60)
    tight = split(text, 60, max_pages=len(nice) - 1)
    assert all(page.text.startswith("# The old town\n") for page in nice)
    assert len(tight) < len(nice)
    assert " ".join(page.text for page in tight).split() == text.split()
    with pytest.raises(TooManyPagesError, match=r"at most 20 are allowed \(GRADMEM_MAX_PAGES\)"):
        split(text, 60, max_pages=20)


def test_a_text_that_fits_is_one_page_as_it_stands() -> None:
    text = "# Tower\n\nIt was built in 1889.\n\n- The  river\n\tfox"
    [page] = split(f"\n \n{text}  \n\n", 200)
    assert (page.text, page.first_line, page.last_line) == (text, 3, 8)


PROSE = (
    "The tower was built in 1889. The river runs through the old town.\n\n"
    "The bridge stands near the market, and Mr. Fox lives there. It is quick and brown."
)


def test_prose_is_cut_between_paragraphs_and_then_between_sentences() -> None:
    first, second = PROSE.split("\n\n")
    assert texts(PROSE, tokens(second)) == [first, second]
    assert texts(PROSE, tokens(second) - 1) == [
        first,
        "The bridge stands near the market, and Mr. Fox lives there.",
        "It is quick and brown.",
    ]


def test_a_sentence_is_cut_between_words_only_where_no_page_has_room_for_it() -> None:
    sentence = "the quick brown fox stands near the market"
    pages = texts(sentence, tokens(sentence) - 1)
    assert len(pages) == 2
    assert " ".join(pages) == sentence


MARKDOWN = """# Guide

## The tower

It was built in 1889.

| Room | Seats |
| --- | --- |
| river | 6 |
| market | 12 |
| bridge | 4 |
| town | 20 |

Fox
---

The brown fox is quick."""


def test_a_page_goes_on_under_its_heading_and_its_header() -> None:
    pages = split(MARKDOWN, 60)
    assert [page.text for page in pages] == [
        "# Guide\n\n## The tower\n\nIt was built in 1889.",
        "## The tower\n| Room | Seats |\n| --- | --- |\n| river | 6 |\n| market | 12 |",
        "## The tower\n| bridge | 4 |\n| town | 20 |\n\nFox\n---\n\nThe brown fox is quick.",
    ]
    assert [(page.first_line, page.last_line) for page in pages] == [(1, 5), (7, 10), (11, 17)]
    pages = split(MARKDOWN, 80)
    assert pages[1].text.startswith("| Room | Seats |\n| market | 12 |\n")
    assert (pages[1].first_line, pages[1].last_line) == (10, 17)


@pytest.mark.parametrize("page_tokens", range(40, 130))
def test_no_page_ends_with_a_heading_or_a_header(page_tokens: int) -> None:
    ends = {"# Guide", "## The tower", "| Room | Seats |", "| --- | --- |", "Fox", "---"}
    for page in split(MARKDOWN, page_tokens):
        assert page.text.split("\n")[-1] not in ends


def test_a_heading_is_not_left_by_a_sentence_that_fills_a_page() -> None:
    sentence = "the quick brown fox stands near the old market of the town"
    first, second = texts(f"# Town\n\n{sentence}", tokens(sentence))
    assert first.startswith("# Town\n\nthe quick")
    assert second.startswith("# Town\n")


def test_what_is_long_is_not_repeated() -> None:
    heading = "# " + "The river runs through the old town " * 3
    pages = texts(heading + "\n" + "The tower.\n" * 60, tokens(heading) * 3)
    assert len(pages) > 1
    assert all(page.startswith("The tower.") for page in pages[1:])


def test_nothing_is_repeated_where_that_is_off() -> None:
    pages = split(MARKDOWN, 60, carry=False)
    assert "\n".join(page.text for page in pages).split() == MARKDOWN.split()


def test_rows_of_csv_go_on_under_the_names_of_their_columns() -> None:
    rows = [f"fox {i},river,{i}" for i in range(8)]
    pages = texts("\n".join(["what,where,count", *rows]), 90)
    assert len(pages) > 1
    assert all(page.startswith("what,where,count\nfox ") for page in pages)
    assert [line for page in pages for line in page.split("\n")[1:]] == rows


def test_a_list_is_cut_between_its_items() -> None:
    items = ["Käthe Müller: 030 5550", "Özlem Ölmez: 0171 22", "Jörg Süß: 89 123", "Änne: 99"]
    pages = texts("\n".join(items), 50)
    assert len(pages) > 1
    assert [line for page in pages for line in page.split("\n")] == items


def test_turns_of_a_transcript_stay_whole() -> None:
    turns = ["[10:02] Anna: Where is the bridge? I am there.", "[10:03] Tom: Near the market."] * 4
    pages = texts("\n".join(turns), 110)
    assert len(pages) > 1
    assert [line for page in pages for line in page.split("\n")] == turns


def test_chinese_is_cut_after_sentences_and_then_between_words() -> None:
    text = "我们在杭州。他在上海工作。她今年三十七岁。"
    assert texts(text, 27) == ["我们在杭州。", "他在上海工作。", "她今年三十七岁。"]
    pages = texts(text, 10)
    assert "".join(pages) == text
    assert all(len(page) <= 3 for page in pages)


def test_an_emoji_family_is_never_cut() -> None:
    pages = texts(FAMILY * 20, tokens(FAMILY) * 3 + 1)
    assert "".join(pages) == FAMILY * 20
    assert {page.replace(FAMILY, "") for page in pages} == {""}


def test_a_long_address_is_cut_at_its_punctuation() -> None:
    address = "https://market.org/" + "/".join(["river", "tower", "bridge"] * 8)
    pages = texts(address, 40)
    assert "".join(pages) == address
    parts = set(regex.split(r"(?w)\b", address))
    assert all(set(regex.split(r"(?w)\b", page)) <= parts for page in pages)


def test_a_word_that_no_page_has_room_for_is_refused_with_its_line() -> None:
    word = "ab" * 1000
    with pytest.raises(WordTooLongError, match=rf"^line 3: a word has {tokens(word)} tokens") as it:
        split(f"The river\r\n\r\nruns {word} through", 96)
    assert it.value.limit == 96
    assert word not in it.value.message


@pytest.mark.parametrize("text", ["", " ", "\n\n\r\n", "\t\f\u00a0", "\ufeff", "\ufeff\n"])
def test_a_text_without_a_word_is_refused(text: str) -> None:
    with pytest.raises(EmptyContextError):
        split(text, 96)


def test_control_characters_are_refused_with_their_places() -> None:
    with pytest.raises(BinaryTextError) as caught:
        split("secret\r\n\0\x1b\n" + "\x7f" * 5 + "\x80", 96)
    assert caught.value.positions == [8, 9, 11, 12, 13]
    assert "8 control characters" in caught.value.message
    assert "U+0000 at 8 (line 2), U+001B at 9 (line 2), U+007F at 11 (line 3)" in str(caught.value)
    assert "secret" not in caught.value.message


def test_unknown_characters_are_named_by_their_places_in_the_document() -> None:
    with pytest.raises(UnknownCharactersError) as halves:
        split("a\r\n\ud800", 96)
    assert halves.value.positions == [3]
    with pytest.raises(UnknownCharactersError) as unknown:
        split_text(Tokenizer.from_characters("ab \r\n"), "a\r\nb ä", page_tokens=9, max_pages=9)
    assert unknown.value.positions == [5]


def test_a_tokenizer_of_characters_has_pages_too() -> None:
    characters = Tokenizer.from_characters("Aabc. \n")
    pages = split_text(characters, "abc abc. Aa\n\nbbb cc", page_tokens=8, max_pages=9)
    assert [page.text for page in pages] == ["abc abc.", "Aa", "bbb cc"]


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "The river runs. " * 62_500, "a\n\n" * 333_333, "你好" * 500_000]
)
def test_a_text_of_a_megabyte_is_refused_by_its_pages(text: str) -> None:
    with pytest.raises(TooManyPagesError, match="pages and at most 64 are allowed") as it:
        split(text, 96, max_pages=64)
    assert it.value.limit == 64


def test_a_megabyte_of_blank_lines_is_a_page() -> None:
    [page] = split("\n" * 1_000_000 + "tower", 96, max_pages=1)
    assert (page.text, page.first_line, page.last_line) == ("tower", 1_000_001, 1_000_001)

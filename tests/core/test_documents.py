"""Documents become pages, queries become tokens, and of several pages one answers."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import (
    ContextTooLongError,
    EmptyContextError,
    EmptyQueryError,
    NoRecordError,
    QueryTooLongError,
    RecordTooLongError,
    TooManyPagesError,
    UnknownCharactersError,
)
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules, choose_page
from gradmem_core.texts.documents import decode_answer, prepare_document, prepare_query
from gradmem_core.tokenizer import ABSENT, QUERY_MARK
from tests.core.conftest import CONFIG
from tests.lists import RECORDS, TOKENIZER

TinyModel = Callable[..., MemoryModel]
MOST, KEY, VALUE = 40, 10, 12


def checkpoint_for(model: TinyModel, task: Task, *, most: int = MOST, **config: int) -> Checkpoint:
    limits = {
        "max_context_tokens": most,
        "max_query_tokens": KEY + 2,
        "max_answer_tokens": VALUE + 1,
    }
    return Checkpoint(
        name="tiny",
        fingerprint="f" * 64,
        model=model(**(CONFIG | limits | config)),
        tokenizer=TOKENIZER,
        task=task,
        stop_ids=TOKENIZER.require_ids(["\n"]),
    )


@pytest.fixture(scope="module")
def lists(tiny_model: TinyModel) -> Checkpoint:
    return checkpoint_for(tiny_model, RECORDS)


@pytest.fixture(scope="module")
def texts(tiny_model: TinyModel) -> Checkpoint:
    return checkpoint_for(tiny_model, RECORDS.model_copy(update={"document_format": "text"}))


def pages(checkpoint: Checkpoint, document: str, most: int = 100) -> list[str]:
    found = prepare_document(checkpoint, document, max_pages=most).pages
    return [checkpoint.tokenizer.decode(page.ids) for page in found]


def test_a_short_list_is_one_page_in_the_canonical_form(lists: Checkpoint) -> None:
    document = prepare_document(lists, "Door code: 4711#\nhello\nBob=x\nbob: y", max_pages=1)
    assert [lists.tokenizer.decode(page.ids) for page in document.pages] == [
        "door code\t4711#\nbob\ty\n"
    ]
    assert document.pages[0].records == 2
    assert (document.duplicate_keys, document.skipped_lines) == (["bob"], [2])


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=KEY),
        st.text("xyz019", min_size=1, max_size=VALUE),
        min_size=1,
        max_size=30,
    )
)
def test_pages_are_whole_records_in_order_within_the_limit(
    lists: Checkpoint, entries: dict[str, str]
) -> None:
    document = "\n".join(f"{key}: {value}" for key, value in entries.items())
    made = pages(lists, document)
    assert "".join(made) == "".join(f"{key}\t{value}\n" for key, value in entries.items())
    assert all(page.endswith("\n") and len(page) <= MOST for page in made)
    found = prepare_document(lists, document, max_pages=100).pages
    assert [page.records for page in found] == [page.count("\n") for page in made]


def test_pages_are_about_equally_long(lists: Checkpoint) -> None:
    made = pages(lists, "\n".join(f"k{i}: {i:04}" for i in range(10, 22)))  # 9 tokens a record
    assert [len(page) for page in made] == [36, 36, 36]
    made = pages(lists, "\n".join(f"k{i}: {i:04}" for i in range(10, 15)))
    assert [len(page) for page in made] == [27, 18]


def test_pages_may_be_shorter_than_what_was_trained(tiny_model: TinyModel) -> None:
    short = checkpoint_for(tiny_model, RECORDS, page_tokens=18)
    assert [
        len(page) for page in pages(short, "\n".join(f"k{i}: {i:04}" for i in range(4, 9)))
    ] == [
        16,
        16,
        8,
    ]
    with pytest.raises(RecordTooLongError, match="the record has 21 tokens"):
        pages(short, f"{'k' * 9}: {'v' * 10}")


def test_more_pages_than_allowed_are_refused(lists: Checkpoint) -> None:
    document = "\n".join(f"k{i}: {i:04}" for i in range(10, 22))
    assert len(pages(lists, document, most=3)) == 3
    for most in (1, 2):
        with pytest.raises(TooManyPagesError) as caught:
            pages(lists, document, most=most)
        assert caught.value.limit == most


@pytest.mark.parametrize(
    ("line", "says", "limit"),
    [
        (f"{'k' * (KEY + 1)}: v", "line 2: the key has 11 tokens", KEY),
        (f"k: {'v' * (VALUE + 1)}", "line 2: the value has 13 tokens", VALUE),
    ],
)
def test_a_record_that_is_too_long_is_named_by_its_line(
    lists: Checkpoint, line: str, says: str, limit: int
) -> None:
    with pytest.raises(RecordTooLongError, match=says) as caught:
        pages(lists, f"a: 1\n{line}")
    assert caught.value.limit == limit
    assert "kk" not in caught.value.message
    assert "vv" not in caught.value.message
    assert pages(lists, f"{'k' * KEY}: {'v' * VALUE}") == [f"{'k' * KEY}\t{'v' * VALUE}\n"]


def test_a_record_that_no_page_holds_is_refused(tiny_model: TinyModel) -> None:
    narrow = checkpoint_for(tiny_model, RECORDS, most=12)
    assert pages(narrow, "abcde: 12345") == ["abcde\t12345\n"]
    with pytest.raises(RecordTooLongError, match="line 3: the record has 13 tokens") as caught:
        pages(narrow, "x: 1\n\nabcde: 123456")
    assert caught.value.limit == 12
    assert "abcde" not in caught.value.message


def test_a_record_is_measured_without_what_it_is_written_with(lists: Checkpoint) -> None:
    key, value = "K" * KEY, "v" * VALUE
    assert pages(lists, f"  {key} :   {value}  ") == [f"{key.lower()}\t{value}\n"]


def test_of_lines_that_are_left_out_none_is_too_long(lists: Checkpoint) -> None:
    document = prepare_document(lists, "word " * 100 + f"\nk: {'v' * 99}\nk: 1", max_pages=1)
    assert (document.duplicate_keys, document.skipped_lines) == (["k"], [1])
    assert document.pages[0].records == 1


def test_what_no_list_may_hold_is_refused(lists: Checkpoint) -> None:
    with pytest.raises(NoRecordError):
        pages(lists, "nothing here")
    for text in ("a: \u00e9", f"a: {ABSENT}", f"{QUERY_MARK}a: 1"):
        with pytest.raises(UnknownCharactersError):
            pages(lists, text)


def test_a_text_is_one_page_as_it_stands(texts: Checkpoint) -> None:
    assert pages(texts, "Any: Text\n") == ["Any: Text\n"]
    assert prepare_document(texts, "x", max_pages=1).pages[0].records is None
    with pytest.raises(EmptyContextError):
        pages(texts, "")
    with pytest.raises(ContextTooLongError):
        pages(texts, "x" * (MOST + 1))


def test_queries(lists: Checkpoint, texts: Checkpoint) -> None:
    decode = lists.tokenizer.decode
    assert decode(prepare_query(lists, " Door Code: ")) == "\x05door code\t"
    assert decode(prepare_query(texts, " Door Code: ")) == " Door Code: "
    assert len(prepare_query(lists, "k" * KEY)) == KEY + 2
    for empty in ("", " ", ":", "\t"):
        with pytest.raises(EmptyQueryError):
            prepare_query(lists, empty)
    for checkpoint, most in ((lists, KEY), (texts, KEY + 2)):
        with pytest.raises(QueryTooLongError):
            prepare_query(checkpoint, "k" * (most + 1))


def test_a_foreign_character_of_a_query_is_named_where_it_stands(lists: Checkpoint) -> None:
    with pytest.raises(UnknownCharactersError) as caught:
        prepare_query(lists, "  d\u00e9\x05")
    assert caught.value.positions == [3, 4]


def test_a_query_is_measured_without_what_it_is_forgiven(lists: Checkpoint) -> None:
    ids = prepare_query(lists, "  " + "K" * KEY + " : ")
    assert lists.tokenizer.decode(ids) == f"{QUERY_MARK}{'k' * KEY}\t"
    with pytest.raises(QueryTooLongError) as caught:
        prepare_query(lists, "sEcReT" * 2)
    assert "secret" not in caught.value.message.lower()


def said(checkpoint: Checkpoint, text: str, confidence: float) -> Answer:
    tokens = checkpoint.tokenizer.encode(text)
    absent = ReadingRules.from_checkpoint(checkpoint).says_absent(tokens)
    return Answer(tokens, [confidence] * len(tokens), confidence, "stop", absent)


def test_an_answer_is_a_text_or_nothing(lists: Checkpoint, texts: Checkpoint) -> None:
    assert decode_answer(lists, said(lists, "4711#", 1.0)) == "4711#"
    assert decode_answer(lists, said(lists, "", 1.0)) == ""
    assert decode_answer(lists, said(lists, ABSENT, 1.0)) is None
    assert decode_answer(lists, said(lists, f"47{ABSENT}", 1.0)) is None
    assert decode_answer(texts, said(texts, ABSENT, 1.0)) == ABSENT


@pytest.mark.parametrize(
    ("answers", "documents", "page"),
    [
        ([("x", 0.5)], "a", 0),
        ([(ABSENT, 0.99), ("x", 0.4), (ABSENT, 0.9)], "aaa", 1),
        ([("x", 0.9), ("y", 0.6)], "ab", 0),
        ([("x", 0.9), ("y", 0.87)], "aa", 0),
        ([("x", 0.9), ("y", 0.87)], "ab", 1),  # nearly as confident, and written later
        ([("x", 0.9), ("y", 0.87), (ABSENT, 1.0)], "abc", 1),
        ([("x", 0.8), ("y", 0.99), ("z", 0.95)], "abc", 2),
        ([("x", 0.8), ("y", 0.99), ("z", 0.95)], "aaa", 1),
        ([("x", 0.98), ("y", 0.99), ("z", 0.7), ("w", 0.95)], "aabb", 3),
        ([(ABSENT, 0.9), (ABSENT, 0.7), (ABSENT, 0.8)], "aab", 1),
    ],
)
def test_which_page_answers(
    lists: Checkpoint, answers: list[tuple[str, float]], documents: str, page: int
) -> None:
    given = [said(lists, *one) for one in answers]
    assert choose_page(given, list(documents)) == page

"""Lists of records: every way to write a record, and lines that are not records."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.errors import NoRecordError, UnknownCharactersError
from gradmem_core.texts.records import Record, fold_key, format_key_query, parse_records
from tests.lists import PRINTABLE


def pairs(document: str) -> list[tuple[str, str]]:
    return [(record.key, record.value) for record in parse_records(document).records]


@pytest.mark.parametrize(
    "separator", [": ", ":  ", " = ", "=", ":", ", ", ",", "\t", "\t\t", " : ", "  =  "]
)
def test_every_separator(separator: str) -> None:
    document = f"Door code{separator}4711#\nBob{separator}b@x.org"
    assert pairs(document) == [("door code", "4711#"), ("bob", "b@x.org")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", " \n"])
def test_every_line_end(end: str) -> None:
    found = parse_records(f"a: 1{end}b: 2{end}")
    assert [(record.key, record.value) for record in found.records] == [("a", "1"), ("b", "2")]
    assert found.skipped_lines == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("URL=postgres://a:b@c:5/d\nDEBUG=false", ("url", "postgres://a:b@c:5/d")),
        ("12:30: lunch, with Bob\n14:00: gym", ("12:30", "lunch, with Bob")),
        ("JFK, New York: Queens\nORD, Chicago", ("jfk", "New York: Queens")),
        ("Eggs, 10 pcs: 3.19 EUR\nSalt: 0.39", ("eggs, 10 pcs", "3.19 EUR")),
        ("formula = a: b = c\nx = y", ("formula", "a: b = c")),
        ("ssh\t22, maybe: 23\nftp\t21", ("ssh", "22, maybe: 23")),
        ("a\tb\tc", ("a", "b c")),
        ("12:30: lunch\n14:00: gym\nnote:x", ("12:30", "lunch")),
        ("Contacts (updated 12:30)\nAnn: 1\nBob: 2", ("contacts (updated 12", "30)")),
        ("# hosts: a\nURL=x://a\n# b: c\nURI=y://b", ("# hosts", "a")),
        ("URL=postgres://a:b@c:5/d", ("url", "postgres://a:b@c:5/d")),
        ("KEY=a=b==\nTOKEN=x,y\nNAME=z: w", ("key", "a=b==")),
        ("sum = a+b=c\nrest = 0", ("sum", "a+b=c")),
        ("Ulm,48.4\nBonn, 50.7: on the Rhine", ("ulm", "48.4")),
        ("  indented: yes \n\tby a tab: too", ("indented", "yes")),
        ("rack\tA: 7\nrow\tB: 8\nend: 9", ("rack a", "7")),
    ],
)
def test_what_separates_most_lines_separates_all(document: str, expected: tuple[str, str]) -> None:
    assert pairs(document)[0] == expected


def test_a_line_that_the_common_separator_leaves_whole_takes_another() -> None:
    assert pairs("a: 1\nb: 2\nc = 3\nd,4") == [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]


def test_lines_that_are_no_record_are_named() -> None:
    found = parse_records("My list\n\na: 1\n: 2\nb:\n   \nc: 3\nthe end")
    assert [(record.key, record.number) for record in found.records] == [("a", 3), ("c", 7)]
    assert found.skipped_lines == [1, 4, 5, 8]


def test_of_equal_keys_the_last_one_is_kept_and_named() -> None:
    found = parse_records("Port: 1\nhost: h\nport:: 2\nPORT : 3")
    assert [(record.key, record.value) for record in found.records] == [
        ("host", "h"),
        ("port", "3"),
    ]
    assert found.duplicate_keys == ["PORT"]


@pytest.mark.parametrize("document", ["", "\n\n", "hello", "hello\nworld", ":", "a:", "=b", " \t "])
def test_a_document_without_a_record_is_refused(document: str) -> None:
    with pytest.raises(NoRecordError, match="key: value"):
        parse_records(document)


@pytest.mark.parametrize("character", ["é", "\x05", "\x15", "\0", "\x7f", "\u2028", "\ud800", "🗝"])
def test_what_is_not_printable_ascii_is_refused_with_its_place(character: str) -> None:
    with pytest.raises(UnknownCharactersError) as caught:
        parse_records(f"a: 1\nb: {character}2")
    assert caught.value.positions == [8]
    assert "a: 1" not in caught.value.message
    with pytest.raises(UnknownCharactersError):
        format_key_query(character)


def test_only_the_first_foreign_characters_are_named() -> None:
    with pytest.raises(UnknownCharactersError, match=r"^9 characters") as caught:
        parse_records("sEcReT: \x05\x15\u00e9\n" + "\u2014" * 6)
    assert caught.value.positions == [8, 9, 10, 12, 13]
    assert r"'\x05' at 8, '\x15' at 9" in caught.value.message
    assert "sEcReT" not in caught.value.message


def test_line_ends_and_tabs_are_no_foreign_characters() -> None:
    assert pairs("\r\n\ta\t1\r\n\rb\t2") == [("b", "2")]
    assert format_key_query("\ta\r\n") == "\x05a\t"


@pytest.mark.parametrize("blank", [" ", "\t"])
@pytest.mark.parametrize("end", ["", "=", ":", ",", "= 1"])
def test_a_long_run_of_blanks_takes_no_time(blank: str, end: str) -> None:
    started = time.process_time()
    found = parse_records(f"x: 1\na{blank * 60_000}{end}b")
    assert found.records[0] == Record("x", "1", 1)
    assert time.process_time() - started < 5  # milliseconds, where it was half a minute


def test_a_query_is_forgiven_case_spaces_and_a_colon() -> None:
    forms = ["Door Code", " door  code ", "DOOR\tCODE:", "door code :", "\ndoor code\n"]
    assert {format_key_query(form) for form in forms} == {"\x05door code\t"}


def test_a_record_is_a_line() -> None:
    assert Record("door code", "4711#").line == "door code\t4711#\n"


WORDS = st.text(string.ascii_letters + string.digits + "#@/._-()'", min_size=1, max_size=12)


@given(
    entries=st.dictionaries(WORDS.map(fold_key).filter(bool), WORDS, min_size=1, max_size=8),
    separator=st.sampled_from([": ", " = ", "=", ":", ", ", ",", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_was_written_is_found(entries: dict[str, str], separator: str, end: str) -> None:
    document = end.join(f"{key}{separator}{value}" for key, value in entries.items())
    found = parse_records(document)
    assert {record.key: record.value for record in found.records} == entries
    assert (found.duplicate_keys, found.skipped_lines) == ([], [])


@given(st.text(PRINTABLE, max_size=20), st.sampled_from(["", " ", "  ", "\t"]))
def test_what_is_forgiven_makes_no_other_query(key: str, blank: str) -> None:
    forms = (key, fold_key(key), key.upper(), key + ":", f"{blank}{key}{blank}:{blank}")
    assert {format_key_query(form) for form in forms} == {format_key_query(key)}


@given(st.text(PRINTABLE + "\n:=,\t", max_size=80))
def test_the_form_of_records_is_read_as_itself(document: str) -> None:
    try:
        found = parse_records(document).records
    except NoRecordError:
        return
    again = parse_records("".join(record.line for record in found))
    assert [record.line for record in again.records] == [record.line for record in found]
    assert (again.duplicate_keys, again.skipped_lines) == ([], [])


@given(st.text(string.printable.replace("\x0b", "").replace("\x0c", ""), max_size=80))
def test_any_printable_text_is_a_list_or_refused(document: str) -> None:
    try:
        found = parse_records(document)
    except NoRecordError:
        return
    lines = len(document.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    assert 1 <= len(found.records) <= lines
    for record in found.records:
        assert record.key == fold_key(record.key) != ""
        assert record.value == record.value.strip() != ""
        assert not set(record.value + record.key) & set("\t\n\r")


def test_comments_have_no_say_in_what_separates() -> None:
    assert pairs("# databases: main\nA_URL=x://a:1\n; more: here\nB_URL=y://b:2")[1] == (
        "a_url",
        "x://a:1",
    )


def test_a_stray_line_does_not_change_the_others() -> None:
    document = "Contacts (updated 12:30)\n12:30: lunch\n14:00: gym\nnote:x"
    assert pairs(document)[1:] == [("12:30", "lunch"), ("14:00", "gym"), ("note", "x")]

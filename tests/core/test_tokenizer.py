"""Text to ids and back, and what is refused on the way."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.errors import CheckpointError, UnknownCharactersError
from gradmem_core.tokenizer import Tokenizer
from tests.pretrained import tokenizer

CHARACTERS = "abcXYZ019!?:| \n\tä😀"
TOKENIZER = Tokenizer.from_characters(CHARACTERS)
KNOWN_TEXT = st.text(alphabet=CHARACTERS)


@given(KNOWN_TEXT)
def test_known_text_makes_the_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text)
    assert TOKENIZER.decode(ids) == text


@given(st.text(alphabet=st.characters(), max_size=30))
def test_any_other_text_is_refused_with_its_first_unknown_characters(text: str) -> None:
    unknown = [i for i, character in enumerate(text) if character not in CHARACTERS]
    if not unknown:
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
        return
    with pytest.raises(UnknownCharactersError) as caught:
        TOKENIZER.encode(text)
    halves = [i for i in unknown if "\ud800" <= text[i] <= "\udfff"]
    assert caught.value.positions == (halves or unknown)[:5]


def test_the_refusal_names_characters_and_positions() -> None:
    with pytest.raises(UnknownCharactersError) as caught:
        TOKENIZER.encode("ab\nq😀\r🚀")
    assert caught.value.positions == [3, 5, 6]
    assert "3 characters" in caught.value.message
    assert r"'q' at 3, '\r' at 5, '🚀' at 6" in caught.value.message


def test_at_most_five_are_named() -> None:
    with pytest.raises(UnknownCharactersError, match="7 characters") as caught:
        TOKENIZER.encode("qqqqqqq")
    assert caught.value.positions == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("text", ["a<pad>b", "a<unk>b"])
def test_the_name_of_a_special_token_in_a_text_is_only_text(text: str) -> None:
    with pytest.raises(UnknownCharactersError) as caught:
        TOKENIZER.encode(text)
    assert caught.value.positions[0] == 1
    covering = Tokenizer.from_characters("ab<>padunk")
    assert covering.decode(covering.encode(text)) == text


def test_special_tokens_leave_no_text() -> None:
    assert TOKENIZER.decode([TOKENIZER.pad_id, *TOKENIZER.encode("ab"), 1]) == "ab"


def test_ids_follow_padding_and_unknown_in_order() -> None:
    assert TOKENIZER.pad_id == 0
    assert TOKENIZER.encode("abc") == [2, 3, 4]
    assert len(TOKENIZER) == len(CHARACTERS) + 2


def test_ids_of_single_tokens() -> None:
    assert TOKENIZER.require_ids(["c", "a"]) == [4, 2]
    with pytest.raises(CheckpointError, match="no token 'q'"):
        TOKENIZER.require_ids(["a", "q"])


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.encode(CHARACTERS) == TOKENIZER.encode(CHARACTERS)
    assert loaded.pad_id == TOKENIZER.pad_id
    with pytest.raises(UnknownCharactersError):
        loaded.encode("a<pad>")
    loaded.save(tmp_path / "again")
    again = (tmp_path / "again" / "tokenizer.json").read_bytes()
    assert again == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_or_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    TOKENIZER.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_token_ends_cover_the_text() -> None:
    assert TOKENIZER.find_token_ends("ab 😀") == [1, 2, 3, 4]
    bytewise = Tokenizer(tokenizer())
    assert bytewise.find_token_ends("你a") == [1, 1, 1, 2]  # three bytes, each a token
    text = "The river runs through Tromsø. 😀"
    ends = bytewise.find_token_ends(text)
    assert ends == sorted(ends)
    assert (len(ends), ends[-1]) == (len(bytewise.encode(text)), len(text))


@given(st.text(alphabet=st.characters(), max_size=30))
def test_what_encode_refuses_token_ends_refuses(text: str) -> None:
    try:
        expected = len(TOKENIZER.encode(text))
    except UnknownCharactersError as error:
        with pytest.raises(UnknownCharactersError) as caught:
            TOKENIZER.find_token_ends(text)
        assert caught.value.positions == error.positions  # noqa: PT017
    else:
        assert len(TOKENIZER.find_token_ends(text)) == expected

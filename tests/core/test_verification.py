"""Verification of a written page: the probes of READ, and the grading of its answers."""

import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.writing.verification import CONTINUED, MAX_PROBES, grade, make_probes
from tests.pretrained import text_checkpoint

PROSE = (
    "The old bridge near the market was built in the spring of 1889. It stands.\n"
    "The river runs through the old town and turns north behind the tower."
)
LIST = "Door code: 4711\n- Landlord: Mr. Okafor\n\nWi-Fi = blue pear"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model that was trained on nothing."""
    return text_checkpoint(tmp_path_factory.mktemp("text"))


def test_sentences_are_continued_from_their_beginnings(checkpoint: Checkpoint) -> None:
    tokenizer = checkpoint.tokenizer
    probes = make_probes(checkpoint, PROSE, lines=(3, 4))
    assert [probe.line for probe in probes] == [3, 4]  # "It stands." is too short
    first, second = probes
    prompt = tokenizer.encode("\nText:")
    assert first.ids == prompt + tokenizer.encode("The old bridge near the")
    assert second.ids == prompt + tokenizer.encode(" The river runs through the")
    assert PROSE.startswith("The old bridge near the " + " ".join(first.expected))
    assert len(tokenizer.encode(" " + " ".join(first.expected))) <= CONTINUED


def test_keys_are_asked_by_the_query_template(checkpoint: Checkpoint) -> None:
    probes = make_probes(checkpoint, LIST, lines=(1, 2, 3, 4))
    asked = [checkpoint.tokenizer.decode(probe.ids) for probe in probes]
    template = checkpoint.task.query_template
    assert asked == [template.format(query=key) for key in ("Door code", "Landlord", "Wi-Fi")]
    assert [probe.expected for probe in probes] == [["4711"], ["Mr.", "Okafor"], ["blue", "pear"]]
    assert [probe.line for probe in probes] == [1, 2, 4]


def test_repeated_headings_are_not_asked_about(checkpoint: Checkpoint) -> None:
    assert [probe.line for probe in make_probes(checkpoint, LIST, lines=(0, 7, 8, 9))] == [7, 9]


def test_a_page_is_asked_a_bounded_number_of_things(checkpoint: Checkpoint) -> None:
    lines = [f"key {number}: value" for number in range(3 * MAX_PROBES + 1)]
    probes = make_probes(checkpoint, "\n".join(lines), lines=tuple(range(1, len(lines) + 1)))
    assert 1 < len(probes) <= MAX_PROBES
    assert probes[0].line == 1


@pytest.mark.parametrize("text", ["", "12345", "One two three four five."])
def test_what_is_too_short_is_not_asked_about(checkpoint: Checkpoint, text: str) -> None:
    assert make_probes(checkpoint, text, lines=(1,)) == []
    assert grade([], []).share is None


def test_words_count_in_their_places(checkpoint: Checkpoint) -> None:
    probes = make_probes(checkpoint, LIST, lines=(1, 2, 3, 4))
    graded = grade(probes, [" 4711", " Okafor", " Blue plum"])
    assert (graded.words, graded.right) == (5, 2)
    assert graded.share == 2 / 5
    assert graded.weak_lines == (2,)  # half of line 4 came back


def test_a_key_beyond_the_longest_query_is_left_out(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    longest = config.model_copy(update={"max_query_tokens": 8})
    checkpoint.model.config = longest
    try:
        assert make_probes(checkpoint, LIST, lines=(1, 2, 3, 4)) == []
    finally:
        checkpoint.model.config = config

"""Stories in bAbI's original text format."""

from pathlib import Path

import numpy as np
import pytest

from gradmem_core.errors import DataError, RecipeError, UnknownCharactersError
from training.tasks import build_task
from training.tasks.babi import BabiTask, read_stories

STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went back to the kitchen.
5 Where is Mary? \tkitchen\t4
1 Daniel took the milk there.
2 What did Daniel take?\tmilk\t1
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five kinds of stories, many of them in training."""
    for kind in range(1, 6):
        for part, copies in (("train", 60), ("test", 2)):
            stories = (STORY.replace("took", f"took{copy}") for copy in range(copies))
            text = "".join(stories).replace("Mary", f"Mary{kind}")
            (tmp_path / f"qa{kind}_some-name_{part}.txt").write_text(text)
    return tmp_path


def test_a_question_comes_with_what_was_told_before_it(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(STORY)
    first, second, third = read_stories(tmp_path / "x.txt")
    assert first.statements == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert (first.question, first.answer) == ("Where is Mary?", "bathroom")
    assert second.statements == (*first.statements, "Mary went back to the kitchen.")
    assert (first.story, second.story, third.story) == (0, 0, 1)
    assert third.statements == ("Daniel took the milk there.",)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (2, "1 One.\nTwo.\n"),
        (2, "1 One.\n3 Two.\n"),
        (1, "2 One.\n"),
        (2, "1 One.\n2 Where?\tthere\n"),
        (1, "\n"),
        (3, "1 One.\n2 Where?\tthere\t1\n\n"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: int, text: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=f"line {line}:"):
        list(read_stories(tmp_path / "x.txt"))


def test_stories_of_the_splits_are_different(data: Path) -> None:
    task = build_task("babi-1", data)
    assert isinstance(task, BabiTask)
    found = {
        split: [item.example.context for item in task.groups(split)[0]]
        for split in ("train", "selection", "test")
    }
    assert len(found["train"]) + len(found["selection"]) == 3 * 60
    took = {split: {text for text in found[split] if "took" in text} for split in found}
    assert took["selection"]
    assert not took["train"] & took["selection"]
    assert len(found["test"]) == 6


def test_every_example_of_a_split_is_measured_once(data: Path) -> None:
    task = build_task("babi-1-4", data)
    drawn = task.examples(split="test", seed=1, size=10, count=100, queries=1)
    assert len(drawn) == 2 * 2 * 3
    assert all(len(example.questions) == 1 for example in drawn)
    shorter = task.examples(split="test", seed=1, size=2, count=100, queries=1)
    assert len(shorter) == 2 * 2 * 2


def test_every_second_question_asks_for_the_rest_of_a_statement(data: Path) -> None:
    example = build_task("babi-2", data).sample(np.random.default_rng(3), size=3, queries=9)
    assert example.questions[0].query.startswith(("Where", "What"))
    assert len(example.questions) == 9
    assert set(example.questions[::2]) == {example.questions[0]}
    for question in example.questions[1::2]:
        assert f"{question.query}{question.target}" in example.context
        assert question.target == f" {question.answer}."


def test_the_rest_is_that_of_the_last_statement_that_begins_so(tmp_path: Path) -> None:
    for kind in range(1, 6):
        (tmp_path / f"qa{kind}_a_train.txt").write_text(
            "1 A went to x.\n2 A went to y.\n3 Where is A?\ty\t2\n" * 40
        )
    drawn = build_task("babi-1", tmp_path).sample(np.random.default_rng(0), size=2, queries=20)
    assert {question.target.split()[-1] for question in drawn.questions[1::2]} == {"y."}


def test_its_words_are_those_of_all_kinds_in_lower_case(data: Path) -> None:
    single, all_five = (build_task(name, data).tokenizer() for name in ("babi-1", "babi"))
    assert len(single) == len(all_five)
    ids = single.encode("MARY1 moved to the bathroom.")
    assert single.decode(ids) == "mary1 moved to the bathroom ."
    with pytest.raises(UnknownCharactersError):
        single.encode("Mary moved to the moon.")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="say where they are"):
        build_task("babi")
    with pytest.raises(DataError, match="qa1_"):
        build_task("babi", tmp_path).sample(np.random.default_rng(0), size=1, queries=1)
    for name in ("babi-6", "babi-", "babi-1-", "baby"):
        with pytest.raises(RecipeError):
            build_task(name, tmp_path)

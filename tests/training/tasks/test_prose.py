"""Windows of passages, and the questions that training asks about them."""

import json
from pathlib import Path

import numpy as np
import pytest

from gradmem_core.errors import DataError, RecipeError
from gradmem_core.tokenizer import Tokenizer
from tests.training.squad_files import write_squad_files
from training.seeds import Split, stream
from training.tasks import Example, Question, build_prose_task
from training.tasks.passages.base import Passage, PassageQuestion, PassageSource
from training.tasks.passages.squad import SquadPassages, cut_passage
from training.tasks.prose import ABSENT, CONTINUATION, ProseTask, WeightedSource, Window
from training.tasks.squad import SquadQuestion

LIST = Passage(
    pieces=("Stock\n", "apples: 12\n", "pears: 7\n", "plums: 30\n", "figs: 5\n"),
    questions=(
        PassageQuestion("apples", ("12",), 1, 1),
        PassageQuestion("How many pears?", ("7", "seven"), 2, 2),
        PassageQuestion("How many plums?", ("30",), 3, 3),
        PassageQuestion("figs", ("5",), 4, 4),
        PassageQuestion("What comes after pears?", ("plums",), 2, 3),
        PassageQuestion("How many quinces?", ()),
    ),
    lead=1,
)


class Fixed(PassageSource):
    """Draws the same passage always."""

    name = "fixed"

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    def draw(self, rng: np.random.Generator, split: Split) -> Passage:  # noqa: ARG002
        return self._passage


@pytest.fixture
def words() -> Tokenizer:
    """A token for each character."""
    return Tokenizer.from_characters("".join(map(chr, range(32, 127))) + "\n")


def task(words: Tokenizer, *passages: Passage, absent: float = 0.0) -> ProseTask:
    sources = [WeightedSource(Fixed(passage), 1) for passage in passages or (LIST,)]
    return ProseTask(sources, words, absent=absent, longest=200)


def drawn(task: ProseTask, size: int, count: int = 100, queries: int = 3) -> list[Example]:
    return [
        task.sample(stream("train", 1, number), size=size, queries=queries)
        for number in range(count)
    ]


def test_a_window_keeps_the_lead_and_stays_within_its_size(words: Tokenizer) -> None:
    texts = {example.context for example in drawn(task(words), size=28)}
    assert all(len(text) <= 28 for text in texts)
    assert all(text.startswith("Stock\n") for text in texts)
    assert {"Stock\napples: 12\npears: 7", "Stock\nplums: 30\nfigs: 5"} <= texts
    assert all(text.removeprefix("Stock\n") in LIST.text for text in texts)


def test_the_smallest_window_is_what_a_question_needs(words: Tokenizer) -> None:
    texts = {example.context for example in drawn(task(words), size=1)}
    assert texts == {
        "Stock\napples: 12",
        "Stock\npears: 7",
        "Stock\nplums: 30",
        "Stock\nfigs: 5",
        "Stock\npears: 7\nplums: 30",
    }


def test_only_what_a_window_answers_is_asked(words: Tokenizer) -> None:
    answers = {q.query: q.answers for q in LIST.questions}
    for example in drawn(task(words), size=28):
        asked = [q for q in example.questions if q.templated]
        assert asked
        for question in asked:
            assert question.answer == answers[question.query][0]
            assert question.target == f" {question.answer}\n"
            assert question.answer in example.context
            assert question.also_right == answers[question.query][1:]


def test_what_a_window_does_not_answer_is_refused(words: Tokenizer) -> None:
    refused = [
        (question.query, example.context)
        for example in drawn(task(words, absent=1.0), size=28)
        for question in example.questions
        if question.answer == ABSENT
    ]
    assert len(refused) >= 90
    assert {query for query, _ in refused} >= {"How many quinces?", "figs", "apples"}
    kept = {q.query: q for q in LIST.questions}
    for query, context in refused:
        assert not any(answer in context for answer in kept[query].answers)


def test_questions_of_another_passage_are_refused(words: Tokenizer) -> None:
    other = Passage(("The door is red.",), (PassageQuestion("Which colour?", ("red",)),))
    both = task(words, LIST, other, absent=1.0)
    mixed = [
        example
        for example in drawn(both, size=60)
        for question in example.questions
        if question.query == "Which colour?" and question.answer == ABSENT
    ]
    assert mixed
    assert all(example.context.startswith("Stock") for example in mixed)


def test_continuations_are_what_follows_in_the_text(words: Tokenizer) -> None:
    prose = Passage(
        ("The old tower stands by the river and was built long ago. ",),
        (PassageQuestion("Where?", ("by the river",)),),
    )
    asked = [q for e in drawn(task(words, prose), size=80) for q in e.questions if not q.templated]
    starts = 0
    for question in asked:
        seen = question.query.removeprefix(CONTINUATION)
        assert f"{seen}{question.target}" in prose.text
        assert len(question.target) <= 16
        starts += not seen
    assert 0.05 < starts / len(asked) < 0.3


def test_parts_are_measured_by_source(words: Tokenizer) -> None:
    other = Fixed(Passage(("The door is red.",), (PassageQuestion("Which colour?", ("red",)),)))
    other.name = "doors"
    both = ProseTask(
        [WeightedSource(Fixed(LIST), 3), WeightedSource(other, 1)], words, absent=0.4, longest=200
    )
    parts = both.parts()
    assert list(parts) == ["fixed", "doors", "absent"]
    (example,) = parts["doors"].examples(split="selection", seed=1, size=60, count=1, queries=2)
    assert example.questions == [Question("Which colour?", " red\n", "red")] * 2
    for example in parts["absent"].examples(
        split="selection", seed=1, size=28, count=30, queries=1
    ):
        assert [q.answer for q in example.questions] == [ABSENT]


def test_a_size_without_any_window_is_refused(words: Tokenizer) -> None:
    with pytest.raises(DataError, match="at most 12 tokens"):
        task(words).sample(stream("train", 1), size=12, queries=1)


def test_a_window_says_what_it_answers() -> None:
    window = Window(LIST, first=2, last=3)
    assert window.text == "Stock\npears: 7\nplums: 30"
    answered = [q.query for q in LIST.questions if window.answers(q)]
    assert answered == ["How many pears?", "How many plums?", "What comes after pears?"]
    assert [q.query for q in LIST.questions if window.misses(q)] == ["apples", "figs"]


def test_paragraphs_are_cut_into_sentences_with_their_questions() -> None:
    text = "Ada met Dr. Bo in Ulm. They ate figs (dried). Then it rained!"
    asked = [
        SquadQuestion(context=text, question="Whom?", answers=["Dr. Bo"]),
        SquadQuestion(context=text, question="What?", answers=["figs", "figs (dried)"]),
        SquadQuestion(context=text, question="All?", answers=["They ate figs (dried). Then"]),
    ]
    passage = cut_passage(text, asked)
    assert passage.pieces == (
        "Ada met Dr. Bo in Ulm. ",
        "They ate figs (dried). ",
        "Then it rained!",
    )
    assert [(q.first, q.last) for q in passage.questions] == [(0, 0), (1, 1), (1, 2)]
    assert passage.questions[1].answers == ("figs", "figs (dried)")


def test_splits_share_no_paragraph(tmp_path: Path) -> None:
    source = SquadPassages(write_squad_files(tmp_path / "homes"))
    found = {
        split: {source.draw(stream(split, 1, i), split).text for i in range(600)}
        for split in ("train", "selection", "test")
    }
    assert len(found["train"]) > 40
    assert found["selection"]
    assert len(found["test"]) == 5
    assert not found["train"] & found["selection"]
    assert not (found["train"] | found["selection"]) & found["test"]


def test_sources_by_name(tmp_path: Path, words: Tokenizer) -> None:
    write_squad_files(tmp_path / "homes")

    def made(**sources: float) -> ProseTask:
        return build_prose_task(sources, words, absent=0.0, longest=99, data=tmp_path)

    assert list(made(homes=1, structured=0).parts()) == ["homes"]
    assert made(homes=1).sample(stream("train", 1), size=60, queries=1).context
    with pytest.raises(RecipeError, match="no folder 'houses'"):
        made(houses=1)
    with pytest.raises(RecipeError, match="not generated"):
        build_prose_task({"homes": 1}, words, absent=0.0, longest=99, data=None)
    with (tmp_path / "homes" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"context": "x", "question": "y", "answers": ["z"]}) + "\n")
    with pytest.raises(DataError, match=r"line 181: answer 1 is not in the context"):
        made(homes=1).sample(stream("train", 1), size=60, queries=1)

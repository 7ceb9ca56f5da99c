"""bAbI: questions about short stories (Weston et al., 2015, arXiv 1502.05698).

Reads the original text format: numbered lines, of which those with tabs are questions (text,
answer, numbers of the supporting lines) about what stands before them in their story; a story
begins at 1.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import DataError, RecipeError
from gradmem_core.tokenizer import Tokenizer
from training.seeds import Split
from training.tasks.base import Example, Question, TrainingTask
from training.tasks.files import FileTask, Item, is_held_out, read_text

LINE = re.compile(r"(\d+) ([^\t]+)(?:\t([^\t]+)\t[\d ]+)?")
WORD = re.compile(r"\w+|[^\w\s]")
STOP = "."
"The end of statements and answers."
NAME = re.compile(r"babi(-[1-5])*")
KINDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class StoryQuestion:
    """A question with the statements before it."""

    story: int
    "Number of the story in its file, from 0."
    statements: tuple[str, ...]
    question: str
    answer: str


class BabiTask(FileTask):
    """Stories; the size is the number of statements before the question.

    The first question is bAbI's. Where more are wanted, every second question begins a
    statement and asks for the rest of the last statement that begins so, which teaches more than a
    single word does.

    `babi` stands for QA1 to QA5 in equal shares, `babi-1-4` for QA1 and QA4; a number that is named
    twice is drawn twice as often.

    Args:
        name: `babi`, with or without numbers.
        data: Folder with the original files, `qa1_*_train.txt` and so on.

    Raises:
        RecipeError: The name is neither.
    """

    fails = f"words that the stories do not have; {TrainingTask.fails}"

    def __init__(self, name: str, data: Path) -> None:
        super().__init__()
        if not NAME.fullmatch(name):
            raise RecipeError(f"task: {name!r} is neither babi nor, for instance, babi-1-4")
        self.name = name
        self._data = data
        numbers = [int(part) for part in name.split("-")[1:]]
        self._kinds: Sequence[int] = numbers or KINDS

    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw a story of at most `size` statements, from each kind equally often."""
        drawn = super().sample(rng, size=size, queries=1, split=split)
        begun = _ask_for_rests(rng, drawn.context, queries // 2)
        questions = [begun[n // 2] if n % 2 else drawn.questions[0] for n in range(queries)]
        return Example(drawn.context, questions)

    def groups(self, split: Split) -> list[list[Item]]:
        """Read the items of each kind of story; whole stories are held out for selection."""
        return [
            [
                Item(len(question.statements), _build_example(question))
                for question in self._read(kind, "test" if split == "test" else "train")
                if split == "test" or is_held_out(str(question.story)) == (split == "selection")
            ]
            for kind in self._kinds
        ]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every word of the training files of all kinds, so that all checkpoints have the same."""
        words = {STOP}
        for kind in KINDS:
            for question in self._read(kind, "train"):
                for text in (*question.statements, question.question, question.answer):
                    words.update(WORD.findall(text.lower()))
        return sorted(words)

    def tokenizer(self) -> Tokenizer:
        """Build a tokenizer with a token for each word and punctuation mark, in lower case."""
        return Tokenizer.from_words(self.vocabulary)

    def card(self) -> Task:
        """Describe the task; a full stop ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=[STOP],
            example_document="John moved to the hallway. Mary went to the garden.",
            example_query="Where is Mary?",
            example_answer="garden",
        )

    def _read(self, kind: int, part: str) -> Iterator[StoryQuestion]:
        files = sorted(self._data.glob(f"qa{kind}_*_{part}.txt"))
        if len(files) != 1:
            raise DataError(
                f"{self._data} holds {len(files)} files qa{kind}_*_{part}.txt; give the folder of"
                " bAbI's original files, which has one"
            )
        return read_stories(files[0])


def read_stories(path: Path) -> Iterator[StoryQuestion]:
    """Read the questions of a file, each with the statements before it.

    Raises:
        DataError: The file cannot be read, or a line is malformed; the error names it by number.
    """
    lines = read_text(path).splitlines()
    statements: list[str] = []
    story, expected = -1, 1
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line.strip())
        if match is None or int(match[1]) not in (1, expected):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is neither `number statement` nor `number"
                f" question<tab>answer<tab>numbers` with the number 1 or {expected}"
            )
        if match[1] == "1":
            story, statements = story + 1, []
        expected = int(match[1]) + 1
        text, answer = match[2].strip(), match[3]
        if answer is None:
            statements.append(text)
        else:
            yield StoryQuestion(story, tuple(statements), text, answer.strip())


def _ask_for_rests(rng: np.random.Generator, story: str, count: int) -> list[Question]:
    """Draw questions that begin a statement and ask for the rest of it."""
    statements = [f"{text}{STOP}".split() for text in story.split(STOP) if text.strip()]
    questions = []
    for _ in range(count):
        words = statements[rng.integers(len(statements))]
        beginning = words[: rng.integers(1, len(words))]
        last = next(s for s in reversed(statements) if s[: len(beginning)] == beginning)
        rest = " ".join(last[len(beginning) :])
        questions.append(_build_question(" ".join(beginning), rest.removesuffix(STOP)))
    return questions


def _build_example(asked: StoryQuestion) -> Example:
    return Example(" ".join(asked.statements), [_build_question(asked.question, asked.answer)])


def _build_question(query: str, answer: str) -> Question:
    """Build a question.

    Pretrained tokenizers want the blank before an answer; the tokenizer of words drops it.
    """
    return Question(query, f" {answer}{STOP}", answer)

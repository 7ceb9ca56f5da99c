"""SQuAD: questions about paragraphs (Rajpurkar et al., 2016, arXiv 1606.05250).

`squad` asks about whole paragraphs, `short-squad` about the sentence that holds the answer. Reads
SQuAD's own JSON (`train-v1.1.json`, `dev-v1.1.json`) and JSON lines with `context`, `question` and
`answers` (`train.jsonl`, `valid.jsonl`).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import DataError
from training.problems import describe_problem
from training.seeds import Split
from training.tasks.base import Example, Question
from training.tasks.files import FileTask, Item, PretrainedTask, is_held_out, read_text

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
"The end of a sentence, up to the next sentence."
ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Lt|vs|No)\.$")
"An abbreviation whose full stop does not end a sentence."
FILES: dict[bool, tuple[str, ...]] = {
    True: ("valid.jsonl", "dev-v1.1.json"),
    False: ("train.jsonl", "train-v1.1.json"),
}
"The files of the test split (True) and of the others; the first file that exists is read."


class SquadQuestion(BaseModel):
    """A question about a paragraph."""

    context: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)
    "Spans of the context."

    @field_validator("answers", mode="before")
    @classmethod
    def _texts(cls, answers: Any) -> Any:  # noqa: ANN401 (any JSON)
        """Take the texts out of SQuAD's objects, and drop repetitions."""
        if isinstance(answers, dict):  # Hugging Face's form
            answers = answers.get("text")
        if not isinstance(answers, list):
            return answers
        texts = [a.get("text") if isinstance(a, dict) else a for a in answers]
        return list(dict.fromkeys(texts))


class SquadTask(FileTask, PretrainedTask):
    """Questions about paragraphs, or about single sentences; the size is the words of the context.

    Paragraphs are held out for selection as a whole. `valid` is the test split.

    Args:
        name: `squad` or `short-squad`.
        data: Folder with the files.
    """

    def __init__(self, name: str, data: Path) -> None:
        super().__init__()
        self.name = name
        self._data = data

    def groups(self, split: Split) -> list[list[Item]]:
        """Read a single group: each context with its questions."""
        questions: dict[str, list[Question]] = defaultdict(list)
        for asked in read_squad(find_squad_file(self._data, test=split == "test")):
            if split != "test" and is_held_out(asked.context) != (split == "selection"):
                continue
            context = asked.context if self.name == "squad" else find_sentence(asked)
            first, *others = asked.answers
            question = Question(asked.question, f" {first}\n", first, tuple(others))
            questions[context].append(question)
        return [
            [Item(len(context.split()), Example(context, qs)) for context, qs in questions.items()]
        ]

    def card(self) -> Task:
        """Describe the task; the end of the line ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["\n"],
            query_template="\nQuestion: {query}\nAnswer:",
            example_document="The Amazon rainforest covers most of the Amazon basin.",
            example_query="What does the Amazon rainforest cover?",
            example_answer="most of the Amazon basin",
        )


def read_squad(path: Path) -> Iterator[SquadQuestion]:
    """Read the questions of a file.

    Raises:
        DataError: The file cannot be read, a line or question is malformed, or an answer is not in
            its context; the error names it by number, from 1.
    """
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
            place = f"{path}, line {number}"
            yield _check(_parse_json(line, place), place)
        return
    for number, entry in enumerate(_flatten(_parse_json(text, str(path)), path), start=1):
        yield _check(entry, f"{path}, question {number}")


def find_sentence(asked: SquadQuestion) -> str:
    """Return the sentence that holds the first answer, or the sentences that it spans."""
    place = asked.context.index(asked.answers[0])
    end = place + len(asked.answers[0])
    cuts = find_cuts(asked.context)
    first = max((cut for cut in cuts if cut <= place), default=0)
    last = min((cut for cut in cuts if cut >= end), default=len(asked.context))
    return asked.context[first:last].strip()


def find_cuts(text: str) -> list[int]:
    """Find the starts of all sentences but the first."""
    return [
        match.end()
        for match in SENTENCE_END.finditer(text)
        if not ABBREVIATION.search(text[: match.start()])
    ]


def find_squad_file(folder: Path, *, test: bool) -> Path:
    """Find the file of the test split, or of the others.

    Raises:
        DataError: There is none.
    """
    for name in FILES[test]:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds neither {' nor '.join(FILES[test])}")


def _parse_json(text: str, place: str) -> Any:  # noqa: ANN401 (any JSON)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error


def _flatten(data: Any, path: Path) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {"context": paragraph["context"], **question}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not of SQuAD's form: {error!r} is missing") from error


def _check(entry: Any, place: str) -> SquadQuestion:  # noqa: ANN401
    try:
        asked = SquadQuestion.model_validate(entry)
    except ValidationError as error:
        raise DataError(f"{place}: {describe_problem(error.errors()[0])}") from error
    for number, answer in enumerate(asked.answers, start=1):
        if answer not in asked.context:
            raise DataError(f"{place}: answer {number} is not in the context")
    return asked

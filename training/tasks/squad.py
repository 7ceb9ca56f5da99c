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
from training.tasks.files import FileTask, Item, PretrainedTask, held_out, text_of

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
"Between sentences."
ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Lt|vs|No)\.$")
"What ends no sentence, for all its full stop."
FILES: dict[bool, tuple[str, ...]] = {
    True: ("valid.jsonl", "dev-v1.1.json"),
    False: ("train.jsonl", "train-v1.1.json"),
}
"The files of the test split, and of the others; the first that is there is read."


class SquadQuestion(BaseModel):
    """A question about a paragraph."""

    context: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)
    "Spans of the context."

    @field_validator("answers", mode="before")
    @classmethod
    def _texts(cls, answers: Any) -> Any:  # noqa: ANN401 (whatever was given)
        """SQuAD's own form has objects with a text, and repeats what several people said."""
        if isinstance(answers, dict):  # Hugging Face's form
            answers = answers.get("text")
        if not isinstance(answers, list):
            return answers
        texts = [one.get("text") if isinstance(one, dict) else one for one in answers]
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
        """One group: each context with its questions."""
        found = [
            one
            for one in read_squad(squad_file(self._data, test=split == "test"))
            if split == "test" or held_out(one.context) == (split == "selection")
        ]
        asked: dict[str, list[Question]] = defaultdict(list)
        for one in found:
            context = one.context if self.name == "squad" else find_sentence(one)
            first, *others = one.answers
            asked[context].append(Question(one.question, f" {first}\n", first, tuple(others)))
        return [[Item(len(context.split()), Example(context, qs)) for context, qs in asked.items()]]

    def card(self) -> Task:
        """The end of the line ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["\n"],
            query_template="\nQuestion: {query}\nAnswer:",
            example_document="The Amazon rainforest covers most of the Amazon basin.",
            example_query="What does the Amazon rainforest cover?",
            example_answer="most of the Amazon basin",
        )


def read_squad(path: Path) -> Iterator[SquadQuestion]:
    """The questions of a file.

    Raises:
        DataError: The file cannot be read, a line or question is malformed, or an answer is not in
            its context; the error names it by number, from 1.
    """
    text = text_of(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
            place = f"{path}, line {number}"
            yield _checked(_json(line, place), place)
        return
    for number, entry in enumerate(_flattened(_json(text, str(path)), path), start=1):
        yield _checked(entry, f"{path}, question {number}")


def find_sentence(one: SquadQuestion) -> str:
    """The sentence of a paragraph that holds the first answer; more where the answer spans them."""
    place = one.context.index(one.answers[0])
    end = place + len(one.answers[0])
    cuts = sentence_cuts(one.context)
    first = max((cut for cut in cuts if cut <= place), default=0)
    last = min((cut for cut in cuts if cut >= end), default=len(one.context))
    return one.context[first:last].strip()


def sentence_cuts(text: str) -> list[int]:
    """Return where sentences start, but the first."""
    return [
        match.end()
        for match in SENTENCE_END.finditer(text)
        if not ABBREVIATION.search(text[: match.start()])
    ]


def squad_file(folder: Path, *, test: bool) -> Path:
    """Find the file of the test split, or of the others.

    Raises:
        DataError: There is none.
    """
    for name in FILES[test]:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds neither {' nor '.join(FILES[test])}")


def _json(text: str, place: str) -> Any:  # noqa: ANN401 (whatever stood there)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error


def _flattened(data: Any, path: Path) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    yield {"context": paragraph["context"], **asked}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not of SQuAD's form: {error!r} is missing") from error


def _checked(entry: Any, place: str) -> SquadQuestion:  # noqa: ANN401
    try:
        one = SquadQuestion.model_validate(entry)
    except ValidationError as error:
        raise DataError(f"{place}: {describe_problem(error.errors()[0])}") from error
    absent = [number for number, answer in enumerate(one.answers, 1) if answer not in one.context]
    if absent:
        raise DataError(f"{place}: answer {absent[0]} is not in the context")
    return one

"""Plain text: reproduce it, or continue where it ends.

Reads `train.txt`, `valid.txt` and `test.txt` of a folder (the last alone is the test split; without
`train.txt` training takes `valid.txt`). Paragraphs are lines; a line such as ` = Title = ` begins
an article, and articles are held out for selection as a whole.
"""

import re
from pathlib import Path

import numpy as np

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.errors import DataError
from training.seeds import Split
from training.tasks.base import Example, Question
from training.tasks.files import PretrainedTask, is_held_out, read_text

TITLE = re.compile(r"= [^=].*[^=] =")
REPEAT = "Text:"
"The query for the whole text."
SEEN, UNSEEN = 8, 16
"Words of the text that a continuation is asked for with, and words of the continuation."
CONTINUED = 0.5
"Share of the questions after the first that ask for the continuation."


class TextTask(PretrainedTask):
    """Pieces of paragraphs; the size is their words.

    The first question asks for the text itself; some of the others ask for its continuation.

    Args:
        name: `text`.
        data: Folder with the files.
    """

    def __init__(self, name: str, data: Path) -> None:
        self.name = name
        self._data = data
        self._read: dict[Split, list[list[str]]] = {}

    def sample(
        self, rng: np.random.Generator, *, size: int, queries: int, split: Split = "train"
    ) -> Example:
        """Draw a piece of `size` words, or a whole paragraph where none is that long."""
        paragraphs = self.paragraphs(split)
        long_enough = [p for p in paragraphs if len(p) >= size] or [max(paragraphs, key=len)]
        words = long_enough[rng.integers(len(long_enough))]
        start = int(rng.integers(max(len(words) - size, 0) + 1))
        piece, after = words[start : start + size], words[start + size :][:UNSEEN]
        questions = [_build_question(REPEAT, piece)]
        for _ in range(queries - 1):
            continues = bool(after) and rng.random() < CONTINUED
            questions.append(
                _build_question(" ".join(piece[-SEEN:]), after) if continues else questions[0]
            )
        return Example(" ".join(piece), questions)

    def paragraphs(self, split: Split) -> list[list[str]]:
        """Return the words of each paragraph of a split.

        Raises:
            DataError: A file is missing, or there is no paragraph in it.
        """
        if split not in self._read:
            self._read[split] = self._read_paragraphs(split)
        return self._read[split]

    def card(self) -> Task:
        """Describe the task; the end of the line ends an answer."""
        return Task(
            name=self.name,
            stop_tokens=["\n"],
            query_template="\n{query}",
            example_document="The Amazon rainforest covers most of the Amazon basin.",
            example_query=REPEAT,
            example_answer="The Amazon rainforest covers most of the Amazon basin.",
        )

    def _read_paragraphs(self, split: Split) -> list[list[str]]:
        name = "test.txt" if split == "test" else "train.txt"
        if split != "test" and not (self._data / name).is_file():
            name = "valid.txt"
        paragraphs: list[list[str]] = []
        title = ""
        for line in read_text(self._data / name).splitlines():
            text = line.strip()
            if TITLE.fullmatch(text):
                title = text
            elif not text or text.startswith("= "):
                continue
            elif split == "test" or is_held_out(title or text) == (split == "selection"):
                paragraphs.append(text.split())
        if not paragraphs:
            raise DataError(f"{self._data / name} has no paragraph for the {split} split")
        return paragraphs


def _build_question(query: str, words: list[str]) -> Question:
    text = " ".join(words)
    return Question(query, f" {text}\n", text)

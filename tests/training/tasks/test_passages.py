"""Sources of passages: a stream depends on its seed alone."""

import os
import subprocess
import sys
from datetime import datetime
from hashlib import sha256

import pytest

from training.seeds import stream
from training.tasks.ingredients import Ingredients
from training.tasks.passages import SOURCES, Passage
from training.tasks.passages.invented import InventedPassages
from training.tasks.passages.structured.names import LOCALES, load_names

DRAW = """
from hashlib import sha256
from training.seeds import stream
from training.tasks.passages import SOURCES
from training.tasks.passages.structured.names import LOCALES, load_names
for name, build in SOURCES.items():
    source = build()
    print([ascii(source.draw(stream("train", seed), "train")) for seed in range(40)])
print([sha256(ascii(load_names(locale)).encode()).hexdigest() for locale in LOCALES])
"""


def draw(name: str, count: int = 40) -> list[Passage]:
    source = SOURCES[name]()
    return [source.draw(stream("train", seed), "train") for seed in range(count)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_seed_draws_the_same_passage_again(name: str) -> None:
    passages = draw(name)
    assert passages == draw(name)
    assert len({passage.text for passage in passages}) == len(passages)


@pytest.mark.slow
def test_another_process_draws_the_same_passages() -> None:
    """Whatever the order of its sets: Faker keeps some lists in sets."""
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    made = subprocess.run(
        [sys.executable, "-c", DRAW], capture_output=True, text=True, check=True, env=environment
    )
    assert made.stdout.splitlines() == [
        *(str([ascii(passage) for passage in draw(name)]) for name in SOURCES),
        str([sha256(ascii(load_names(locale)).encode()).hexdigest() for locale in LOCALES]),
    ]


def test_another_day_draws_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        """A clock that is years ahead."""

        @classmethod
        def now(cls, tz: object = None) -> "Later":  # noqa: ARG003
            return cls(2049, 5, 17)

    ingredients = Ingredients()

    def draw_all() -> list[str]:
        ingredients.seed(3)
        return [ingredients.draw(kind) for kind in ingredients.kinds for _ in range(200)]

    today = draw_all()
    monkeypatch.setattr("faker.providers.date_time.datetime", Later)
    assert draw_all() == today


def test_a_passage_with_few_answers_is_drawn_too() -> None:
    """This seed gives a passage with too few answerable questions for an unanswerable one."""
    passage = InventedPassages().draw(stream("train", 0, 786), "train")
    assert all(question.answers for question in passage.questions)
    assert 1 <= len(passage.questions) <= 2

"""Small recipes and data to measure."""

import json
from pathlib import Path

import pytest

from tests.pretrained import text_checkpoint
from tests.training.conftest import tiny_file as tiny_file
from tests.training.conftest import tiny_recipe as tiny_recipe

PLACES = ("river", "market", "bridge", "tower", "town", "fox")
QUESTIONS = """questions = [
  { ask = "Where is the bridge?", answers = ["near the market"] },
  { ask = "Who built it?", answers = [] },
]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as training leaves it, `text`, beside small data of every kind."""
    folder = tmp_path_factory.mktemp("sections")
    text_checkpoint(folder, max_query_tokens=110)
    rows = []
    for number in range(12):
        place = PLACES[number % len(PLACES)]
        context = f"The {place} is {number} miles away. It is old. The fox is quick."
        asked = {"question": f"How far is the {place}?", "answers": [f"{number} miles"]}
        rows.append(json.dumps({"context": context, **asked}))
    for name in ("squad", "lists", "texts"):
        (folder / name).mkdir()
    (folder / "squad" / "valid.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "lists" / "doors.txt").write_text("front: 4711\nback: 12\nside: 9\n")
    for name in ("first", "second"):
        (folder / "texts" / f"{name}.txt").write_text("bridge: near the market\n" * 30)
        (folder / "texts" / f"{name}.toml").write_text(QUESTIONS)
    return folder

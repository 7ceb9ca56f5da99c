"""Tokens that memories give back."""

from pathlib import Path

import pytest

from benchmarks.rows import Reconstruction
from tests.benchmarks.commands import invoke, measure_rows
from tests.pretrained import text_checkpoint, text_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts beside a tiny checkpoint, `text`."""
    text_checkpoint(tmp_path)
    return text_folder(tmp_path / "data")


def test_every_length_is_measured_with_every_k(data: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--tokens", "6,8", "--steps", "1,2", "--texts", 3, "--query", "x")
    rows = measure_rows(Reconstruction, "reconstruction", tmp_path / "text", *options)
    assert [(row.tokens, row.write_steps) for row in rows] == [(6, 1), (6, 2), (8, 1), (8, 2)]
    assert {(row.optimizer, row.query, row.texts, row.memory_tokens) for row in rows} == {
        ("gradient", "x", 3, 3)
    }


def test_adam_writes_an_untrained_memory_better_with_more_steps(data: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--tokens", 6, "--steps", "1,60", "--texts", 4, "--adam")
    first, last = measure_rows(Reconstruction, "reconstruction", tmp_path / "text", *options)
    assert first.optimizer == last.optimizer == "adam"
    assert last.loss < first.loss
    assert last.recovered >= first.recovered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "121"], "at most 120"),
        (["--tokens", "6", "--texts", "100"], "paragraphs of 6 tokens, not 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    data: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    refused = invoke("reconstruction", tmp_path / "text", "--data", data, *options)
    assert refused.exit_code == 2
    assert message in refused.stderr

"""Pages that are made by a program are what the program makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measurement import peak_bytes
from benchmarks.report.serving import page, pictures
from benchmarks.serving.documents import documents
from benchmarks.serving.inprocess import batch_of
from benchmarks.serving.results import load_result
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.writing.descent import write
from scripts import gpu_settings, training_cost
from training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "environment", [{}, {"GRADMEM_URL": "http://elsewhere", "COLUMNS": "200", "FORCE_COLOR": "1"}]
)
def test_the_command_line_reference_is_the_programs_help(environment: dict[str, str]) -> None:
    page = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cli_reference.py"],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8") == page.stdout


def test_the_performance_page_is_made_of_its_results() -> None:
    folder = ROOT / "docs" / "performance"
    results = [load_result(path) for path in sorted(folder.glob("*.json"))]
    bounds = (folder / "bounds.md").read_text(encoding="utf-8")
    found = (ROOT / "docs" / "PERFORMANCE.md").read_text(encoding="utf-8")
    assert found == page(results, bounds=bounds)
    for name, picture in pictures(results).items():
        assert (folder / name).read_text(encoding="utf-8") == picture


def test_the_gpu_page_is_its_arithmetic() -> None:
    assert (ROOT / "docs" / "GPU.md").read_text(encoding="utf-8") == gpu_settings.page()


def test_the_cost_of_training_is_that_of_the_recipes() -> None:
    """The counting itself takes minutes: what it was made for has to be what the recipes say."""
    found = (ROOT / "docs" / "TRAINING_COST.md").read_text(encoding="utf-8")
    for shape in training_cost.SHAPES:
        recipe = load_recipe(shape.recipe)
        assert recipe.budget_tokens is not None
        contexts = f"{recipe.budget_tokens / shape.context_tokens:,.0f}"
        steps = f"{shape.memory_tokens}, {recipe.train_write_steps}"
        (row,) = [line for line in found.splitlines() if f"`{shape.recipe}`" in line]
        assert {contexts, steps} <= {cell.strip() for cell in row.split("|")}


def test_operations_and_kept_bytes_are_counted() -> None:
    weight = torch.nn.Linear(64, 32, bias=False)
    inputs = torch.ones(8, 64, requires_grad=True)
    with (
        FlopCounterMode(display=False) as operations,
        training_cost.kept_bytes(weight) as sizes,
    ):
        (weight(inputs) * weight(inputs)).sum().backward()
    assert sum(sizes) == 4 * (8 * 64 + 2 * 8 * 32)
    assert operations.get_total_flops() == 2 * 3 * 2 * 8 * 64 * 32


def test_the_arithmetic_of_memory_is_what_a_write_takes() -> None:
    checkpoint = load_checkpoint("kv-32")
    batch = batch_of(checkpoint, documents(4, pairs=16, seed=1))
    peak = peak_bytes(
        lambda: write(checkpoint.model, batch.ids, batch.lengths, 2, create_graph=False)
    )
    (computed,) = [one for one in gpu_settings.BACKBONES if one.name == checkpoint.name]
    tokens = batch.ids.numel() + len(batch.ids) * checkpoint.model.config.memory_tokens
    assert peak / tokens == pytest.approx(computed.step_bytes, rel=0.05)

"""The step benchmark."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from training.batch import Batch
from training.bench import IMPLEMENTATIONS, Plan, kept, step_times
from training.cli import app
from training.recipe import Recipe
from training.results import StepTime, load_result

TinyRecipe = Callable[..., Recipe]
PLAN = Plan(sizes=[1, 2], write_steps=2, rounds=2, threads=1, seed=3)


@pytest.mark.parametrize("token_weights", ["false", "true"])
def test_every_implementation_is_timed_at_every_size(
    tiny_recipe: TinyRecipe, token_weights: str
) -> None:
    recipe = tiny_recipe(f"memory.token_weights={token_weights}")
    result = step_times(recipe, PLAN, command="bench")
    assert [(row.size, row.name) for row in result.rows] == [
        (size, name) for size in (1, 2) for name in IMPLEMENTATIONS
    ]
    assert {row.relative for row in result.rows if row.name == "straightforward"} == {1.0}
    assert all(row.write_steps == 2 for row in result.rows)
    peak = {(row.size, row.name): row.peak_memory_bytes for row in result.rows}
    assert peak[2, "gradmem, recompute"] < peak[2, "gradmem"] < peak[2, "straightforward"]


def test_another_gradient_is_refused(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_step_less(model: MemoryModel, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        return kept(model, batch, steps - 1)

    monkeypatch.setitem(IMPLEMENTATIONS, "one step less", one_step_less)
    with pytest.raises(ArithmeticError, match="one step less"):
        step_times(tiny_recipe(), PLAN, command="bench")


def test_a_clipped_inner_gradient_is_refused(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe("memory.inner_gradient_clip=1.0")
    with pytest.raises(InputError, match="inner_gradient_clip"):
        step_times(recipe, PLAN, command="bench")


def test_the_command_writes_a_result_file(tiny_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    arguments = ["bench", str(tiny_file), "--pairs", "1", "--rounds", "1", "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert isinstance(load_result(output).result, StepTime)
    refused = CliRunner().invoke(app, ["bench", str(tiny_file), "--pairs", "1,no"])
    assert refused.exit_code == 2
    assert "--pairs: 'no'" in refused.stderr

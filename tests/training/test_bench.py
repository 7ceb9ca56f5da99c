"""The step benchmark."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.speed.implementations import IMPLEMENTATIONS, Setting, Step, ordinary
from benchmarks.speed.training_step import Plan, Shapes, of_checkpoint, of_recipe, step_times
from benchmarks.training_results import StepTime, load_result
from gradmem_core.config import AdapterConfig
from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from tests.pretrained import text_checkpoint
from training.cli import app
from training.recipe import Recipe

TinyRecipe = Callable[..., Recipe]
PLAN = Plan(sizes=[1, 2], write_steps=2, rounds=2, threads=1, seed=3)
NO_HEAD = "memory.write_head=false"


@pytest.mark.parametrize("token_weights", ["false", "true"])
def test_every_implementation_is_timed_at_every_size(
    tiny_recipe: TinyRecipe, token_weights: str
) -> None:
    recipe = tiny_recipe(f"memory.token_weights={token_weights}", NO_HEAD)
    result = step_times(of_recipe(recipe, PLAN), PLAN, command="bench")
    assert [(row.size, row.name) for row in result.rows] == [
        (size, name) for size in (1, 2) for name in IMPLEMENTATIONS
    ]
    assert {row.relative for row in result.rows if row.name == "straightforward"} == {1.0}
    assert all(row.write_steps == 2 for row in result.rows)
    peak = {(row.size, row.name): row.peak_memory_bytes for row in result.rows}
    assert peak[2, "gradmem, recompute"] < peak[2, "gradmem"] < peak[2, "straightforward"]
    assert peak[2, "joined, recompute"] < peak[2, "joined"] < peak[2, "plain"]


def test_what_cannot_make_a_step_is_left_out(tiny_recipe: TinyRecipe) -> None:
    trial = of_recipe(tiny_recipe(), PLAN)  # a write head of its own
    result = step_times(trial, PLAN, command="bench")
    assert {row.name for row in result.rows} == IMPLEMENTATIONS.keys() - {"plain"}
    plan = Plan([1], 1, 1, 1, 3, only=["joined", "plain"])
    with pytest.raises(InputError, match="plain cannot make"):
        step_times(trial, plan, command="bench")


def test_another_gradient_is_refused(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_step_less(model: MemoryModel, setting: Setting) -> Step:
        return ordinary(model, Setting(setting.write_steps - 1, setting.write_loss_weight))

    monkeypatch.setitem(IMPLEMENTATIONS, "one step less", one_step_less)
    with pytest.raises(ArithmeticError, match="one step less"):
        step_times(of_recipe(tiny_recipe(), PLAN), PLAN, command="bench")


def test_a_clipped_inner_gradient_is_refused(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe("memory.inner_gradient_clip=1.0")
    with pytest.raises(InputError, match="inner_gradient_clip"):
        of_recipe(recipe, PLAN)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_timed_on_random_tokens(tmp_path: Path, dtype: str) -> None:
    adapter = AdapterConfig(rank=2, phases="both")
    text_checkpoint(tmp_path, adapter=adapter, inner_gradient_clip=1.0)
    plan = Plan([9], 2, 1, 1, 3, dtype=dtype)
    trial = of_checkpoint(str(tmp_path / "text"), Shapes(3, 2, 6), plan)
    result = step_times(trial, plan, command="bench")
    names = ["plain", "gradmem", "gradmem, recompute", "joined", "joined, recompute"]
    assert [(row.size, row.name) for row in result.rows] == [(9, name) for name in names]
    assert (result.device, result.dtype) == ("cpu", dtype)
    batch = trial.batch(9)
    assert batch.context_ids.shape == (3, 9)
    assert batch.query_ids.shape == (3, 2, 6)
    assert torch.equal(batch.labels[..., 4:], batch.query_ids[..., 4:])


def test_a_profile_names_what_takes_the_time(
    tiny_recipe: TinyRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan([1], 1, 1, 1, 3, only=["joined"], profile=True)
    step_times(of_recipe(tiny_recipe(), plan), plan, command="bench")
    said = capsys.readouterr().err
    assert "joined, size 1" in said
    assert "aten::mm" in said


def test_the_command_writes_a_result_file(tiny_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    arguments = ["bench", str(tiny_file), "--pairs", "1", "--rounds", "1", "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert isinstance(load_result(output).result, StepTime)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--sizes", "1,no"], "--sizes: 'no' is not a number"),
        (["--dtype", "f"], "--dtype: 'f' is not known; take float32 or bfloat16"),
        (["--device", "gpu"], "--device: 'gpu' is not known; take cpu or cuda"),
    ],
)
def test_options_that_are_not_understood_are_refused(
    tiny_file: Path, wrong: list[str], message: str
) -> None:
    refused = CliRunner().invoke(app, ["bench", str(tiny_file), *wrong])
    assert refused.exit_code == 2
    assert message in refused.stderr

"""Training steps beside straightforward ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.rows import TrainingStep
from benchmarks.speed.implementations import IMPLEMENTATIONS, Setting, Step, ordinary
from benchmarks.speed.training_step import step_rows
from benchmarks.speed.trials import checkpoint_trial, recipe_trial
from gradmem_core.config import AdapterConfig
from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from tests.benchmarks.commands import invoke, measure, measure_rows
from tests.pretrained import text_checkpoint
from training.recipes.schema import Recipe

TinyRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")
SETTING = Setting(write_steps=2, write_loss_weight=0.4)


def time_steps(recipe: Recipe, size: int, *names: str) -> list[TrainingStep]:
    trial = recipe_trial(recipe, seed=3, device=CPU)
    return list(step_rows(trial, SETTING, size, names=names, rounds=2))


@pytest.mark.parametrize("token_weights", ["false", "true"])
def test_every_implementation_is_timed(tiny_recipe: TinyRecipe, token_weights: str) -> None:
    recipe = tiny_recipe(f"memory.token_weights={token_weights}", "memory.write_head=false")
    rows = time_steps(recipe, 2)
    assert [row.implementation for row in rows] == list(IMPLEMENTATIONS)
    assert {(row.size, row.write_steps, row.dtype) for row in rows} == {(2, 2, "float32")}
    assert rows[0].relative == 1.0
    peak = {row.implementation: row.peak_memory_bytes for row in rows}
    assert peak["gradmem, recompute"] < peak["gradmem"] < peak["straightforward"]
    assert peak["joined, recompute"] < peak["joined"] < peak["plain"]


def test_what_cannot_make_a_step_is_left_out(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe()  # a write head of its own
    rows = time_steps(recipe, 1)
    assert {row.implementation for row in rows} == IMPLEMENTATIONS.keys() - {"plain"}
    with pytest.raises(InputError, match="plain cannot make"):
        time_steps(recipe, 1, "joined", "plain")


def test_another_gradient_is_refused(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_step_less(model: MemoryModel, setting: Setting) -> Step:
        return ordinary(model, Setting(setting.write_steps - 1, setting.write_loss_weight))

    monkeypatch.setitem(IMPLEMENTATIONS, "one step less", one_step_less)
    with pytest.raises(ArithmeticError, match="one step less"):
        time_steps(tiny_recipe(), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_timed_on_random_tokens(tmp_path: Path, dtype: str) -> None:
    adapter = AdapterConfig(rank=2, phases="both")
    text_checkpoint(tmp_path, adapter=adapter, inner_gradient_clip=1.0)
    options = ("--sizes", 9, "--rounds", 1, "--contexts", 3, "--dtype", dtype)
    result = measure("training-step", "--checkpoint", tmp_path / "text", *options)
    names = ["plain", "gradmem", "gradmem, recompute", "joined", "joined, recompute"]
    assert [(row["size"], row["implementation"]) for row in result.rows] == [
        (9, name) for name in names
    ]
    assert {row["dtype"] for row in result.rows} == {dtype}
    assert result.machine.device == "cpu"
    assert result.subject is not None
    assert result.subject.checkpoint == "text"


def test_random_batches_have_their_shape_and_are_repeatable(tmp_path: Path) -> None:
    text_checkpoint(tmp_path)
    first, second = (
        checkpoint_trial(
            str(tmp_path / "text"), torch.float32, shape=(3, 2, 6), seed=3, device=CPU
        ).batch(9)
        for _ in range(2)
    )
    assert first.context_ids.shape == (3, 9)
    assert first.query_ids.shape == (3, 2, 6)
    assert torch.equal(first.context_ids, second.context_ids)
    assert torch.equal(first.labels[..., 4:], first.query_ids[..., 4:])
    assert (first.labels[..., :4] < 0).all()


def test_the_command_times_every_size_of_a_recipe(tiny_file: Path) -> None:
    options = ("--pairs", "1,2", "--rounds", 1, "--only", "joined; gradmem", "--profile")
    finished = invoke("training-step", tiny_file, *options)
    assert finished.exit_code == 0, finished.output
    assert "joined, size 2" in finished.stderr
    assert "aten::mm" in finished.stderr
    rows = measure_rows(TrainingStep, "training-step", tiny_file, *options[:-1])
    assert [(row.size, row.implementation) for row in rows] == [
        (size, name) for size in (1, 2) for name in ("gradmem", "joined")
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--sizes", "1,no"], "'no' is not a number"),
        (["--dtype", "f"], "--dtype"),
        (["--device", "gpu"], "--device"),
        (["--only", "magic"], "magic cannot make"),
    ],
)
def test_options_that_are_not_understood_are_refused(
    tiny_file: Path, wrong: list[str], message: str
) -> None:
    refused = invoke("training-step", tiny_file, *wrong)
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_a_clipped_inner_gradient_is_refused(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe("memory.inner_gradient_clip=1.0")
    with pytest.raises(InputError, match="inner_gradient_clip"):
        recipe_trial(recipe, seed=3, device=CPU)

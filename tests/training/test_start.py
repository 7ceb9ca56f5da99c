"""Runs that start from a checkpoint, and averaged weights."""

from pathlib import Path

import pytest
import torch

from gradmem_core.errors import CheckpointError, RecipeError
from tests.training.conftest import TinyRecipe
from training.loop.trainer import Trainer
from training.writers import load_writer


def test_a_run_starts_from_a_checkpoint_and_counts_what_came_before(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    first = Trainer(tiny_recipe("budget_tokens=200"), tmp_path / "first")
    first.fit(quiet=True)
    start = tmp_path / "first" / "checkpoint"
    second = Trainer(
        tiny_recipe("budget_tokens=100", f"start={start}", "memory.token_weights=true"),
        tmp_path / "second",
    )
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name
    second.fit(quiet=True)
    training = load_writer(tmp_path / "second" / "checkpoint").training
    assert training is not None
    assert training.contexts == 4 * (first.state.step + second.state.step)
    assert training.tokens == first.state.tokens + second.state.tokens


def test_a_start_that_does_not_fit_is_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    Trainer(tiny_recipe("budget_tokens=100"), tmp_path / "first").fit(quiet=True)
    start = f"start={tmp_path / 'first' / 'checkpoint'}"
    with pytest.raises(RecipeError, match="start: initial_memory"):
        Trainer(tiny_recipe(start, "memory.memory_tokens=5"), tmp_path / "second")
    with pytest.raises(RecipeError, match=r"start: write_head\.weight.*no such weight"):
        Trainer(tiny_recipe(start, "memory.write_head=false"), tmp_path / "third")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Trainer(tiny_recipe("start=nowhere"), tmp_path / "fourth")


def test_a_share_of_the_start_is_kept_in_the_result(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    Trainer(tiny_recipe("budget_tokens=100"), tmp_path / "first").fit(quiet=True)
    start = f"start={tmp_path / 'first' / 'checkpoint'}"
    trainer = Trainer(tiny_recipe(start, "start_share=0.25"), tmp_path / "second")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit(until_step=2, quiet=True)
    resumed = Trainer(tiny_recipe(start, "start_share=0.25"), tmp_path / "second")
    after = trainer.model.state_dict()
    for result in (trainer.build_result(), resumed.build_result()):
        for name, tensor in result.model.state_dict().items():
            torch.testing.assert_close(tensor, 0.25 * before[name] + 0.75 * after[name])
    assert not torch.equal(after["initial_memory"], before["initial_memory"])
    with pytest.raises(RecipeError, match="start_share: name a checkpoint"):
        tiny_recipe("start_share=0.25")


def test_the_average_follows_the_weights_and_is_resumed(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe("optimizer.average_decay=0.5", "optimizer.warmup_steps=0")
    trainer = Trainer(recipe, tmp_path / "whole")
    expected = None
    for step in range(1, 4):
        trainer.fit(until_step=step, quiet=True)
        weights = trainer.model.get_parameter("initial_memory").detach().clone()
        expected = weights if expected is None else 0.5 * expected + 0.5 * weights
    assert expected is not None
    averaged = trainer.build_result().model.get_parameter("initial_memory")
    torch.testing.assert_close(averaged.detach(), expected)
    assert not torch.equal(averaged, trainer.model.get_parameter("initial_memory"))
    for step in (1, 3):
        parts = Trainer(recipe, tmp_path / "parts")
        parts.fit(until_step=step, quiet=True)
    resumed = Trainer(recipe, tmp_path / "parts").build_result().model.state_dict()
    for name, tensor in trainer.build_result().model.state_dict().items():
        assert torch.equal(resumed[name], tensor), name

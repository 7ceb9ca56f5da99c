"""Training that starts from a checkpoint with other steps of WRITE."""

from pathlib import Path

import pytest
import torch

from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import take_gradient_step
from training.loop.batch import collate
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe
from training.seeds import stream

TINY = [
    "curriculum.stages=[{size = 6}]",
    *("batch.contexts=2", "batch.micro_batch=2", "workers=0", "threads=1", "device=cpu"),
]
NORMALISED = "memory.inner_gradient_normalise=true"
PER_STEP = "memory.inner_rate_per_step=true"


def start(folder: Path, *overrides: str) -> Trainer:
    return Trainer(load_recipe("kv-96", [*TINY, *overrides]), folder)


def step_lengths(trainer: Trainer, along: MemoryModel) -> list[float]:
    """Mean lengths of a model's steps from the memories on the way of another."""
    model, data = trainer.model, trainer.data
    assert isinstance(model, MemoryModel)
    examples = [
        data.task.sample(stream("selection", trainer.recipe.seed, row), size=6, queries=1)
        for row in range(16)
    ]
    batch = collate(examples, data.form)
    memory = along.initial_memory.detach().expand(16, -1, -1)
    lengths = []
    for index in range(5):
        contexts = (batch.context_ids, batch.lengths)
        changed, _ = take_gradient_step(model, memory, *contexts, place=(index, 5))
        lengths.append(float((changed - memory).flatten(1).norm(dim=1).mean()))
        memory, _ = take_gradient_step(along, memory, *contexts, place=(index, 5))
    return lengths


def test_rates_are_multiplied_when_training_starts(tmp_path: Path) -> None:
    plain, faster = start(tmp_path / "1"), start(tmp_path / "2", "memory.inner_rate_factor=3")
    for (name, before), after in zip(
        plain.model.state_dict().items(), faster.model.state_dict().values(), strict=True
    ):
        if name == "log_inner_learning_rate":
            torch.testing.assert_close(after.exp(), 3 * before.exp())
        else:
            assert torch.equal(before, after), name


def test_normalised_steps_keep_the_length_of_the_first(tmp_path: Path) -> None:
    plain, normalised = start(tmp_path / "1"), start(tmp_path / "2", NORMALISED)
    assert isinstance(plain.model, MemoryModel)
    before = step_lengths(plain, plain.model)
    after = step_lengths(normalised, plain.model)
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert after[-1] > 2 * before[-1]  # gradients become smaller as WRITE goes on


def test_normalised_steps_with_factors_of_their_own_keep_every_length(tmp_path: Path) -> None:
    plain, normalised = start(tmp_path / "1"), start(tmp_path / "2", NORMALISED, PER_STEP)
    assert isinstance(plain.model, MemoryModel)
    before = step_lengths(plain, plain.model)
    assert step_lengths(normalised, plain.model) == pytest.approx(before, rel=1e-4)


def test_factors_of_steps_are_trained_and_kept(tmp_path: Path) -> None:
    trainer = start(tmp_path, PER_STEP, "budget_tokens=200", "budget_seconds=1000")
    trainer.fit(quiet=True)
    again = start(tmp_path / "again", PER_STEP, f"start={tmp_path / 'checkpoint'}")
    assert isinstance(again.model, MemoryModel)
    assert again.model.log_inner_step_factors is not None
    assert again.model.log_inner_step_factors.abs().max() > 0

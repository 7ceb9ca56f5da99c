"""The meta-training loop."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor, nn
from typer.testing import CliRunner

import gradmem_core.writing.recomputation
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.errors import NonFiniteLossError, RecipeError
from tests.training.conftest import TinyRecipe
from training.cli import app
from training.loop.curriculum import Progress
from training.loop.loss import Outcome, clip_separately, outer_loss
from training.loop.optimizers import Muon, build_optimizers, compute_rate_factor, orthogonalise
from training.loop.trainer import Trainer
from training.runs import STATE
from training.writers import load_writer


def scalars_of(folder: Path) -> dict[str, list[float]]:
    """Return the scalars that a run logged, by name."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_resuming_continues_exactly(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    whole = Trainer(recipe, tmp_path / "whole")
    losses = whole.fit(until_step=8, quiet=True)
    parts = [
        Trainer(recipe, tmp_path / "parts").fit(until_step=step, quiet=True) for step in (3, 5, 8)
    ]
    assert [len(part) for part in parts] == [3, 2, 3]
    assert [loss for part in parts for loss in part] == losses
    resumed = Trainer(recipe, tmp_path / "parts")
    assert resumed.state.progress == whole.state.progress
    assert resumed.state.progress.stage > 0
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_lowers_the_loss(tiny_recipe: TinyRecipe, tmp_path: Path, optimizer: str) -> None:
    recipe = tiny_recipe(
        f"optimizer.name={optimizer}",
        "optimizer.learning_rate=1e-2",
        "optimizer.muon_learning_rate=2e-2",
        "curriculum.stages=[{size = 1}]",
    )
    losses = Trainer(recipe, tmp_path).fit(until_step=30, quiet=True)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_recomputed_steps_train_alike(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Trainer(tiny_recipe(), tmp_path / "kept").fit(until_step=3, quiet=True)
    calls = 0
    real = gradmem_core.writing.recomputation.take_recomputed_step

    def count_call(*args: Any) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return real(*args)

    monkeypatch.setattr("gradmem_core.writing.descent.take_recomputed_step", count_call)
    again = Trainer(tiny_recipe("recompute=true"), tmp_path / "again")
    assert again.fit(until_step=3, quiet=True) == pytest.approx(losses, rel=1e-5)
    assert calls >= 3 * 2 * 2  # steps, micro-batches in parts of one at least, write steps


def test_bfloat16_trains_to_a_float32_checkpoint(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe("precision=bfloat16", "budget_tokens=300"), tmp_path)
    losses = trainer.fit(quiet=True)
    exact = Trainer(tiny_recipe("budget_tokens=300"), tmp_path / "exact").fit(quiet=True)
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)
    weights = load_writer(tmp_path / "checkpoint").writer.model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_finished_run_leaves_a_checkpoint_and_scalars(tiny_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["fit", str(tiny_file), "--output", str(output), "--set", "budget_tokens=300"]
    arguments += ["--set", "evaluation.every_steps=5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(output / "checkpoint")
    assert checkpoint.name == "tiny"
    assert "recipe `tiny`, seed 3" in (output / "checkpoint" / "README.md").read_text()
    scalars = scalars_of(output / "scalars")
    assert "train/target_loss" in scalars
    assert "selection/size_1/steps_1" in scalars


def test_a_diverged_step_is_skipped_and_counted(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def sometimes(*args: Any, **kwargs: Any) -> Outcome:
        nonlocal calls
        calls += 1
        outcome = outer_loss(*args, **kwargs)
        if calls != 3:
            return outcome
        return Outcome(outcome.loss * math.nan, math.nan, math.nan, 0.0)

    monkeypatch.setattr("training.loop.gradient.outer_loss", sometimes)
    trainer = Trainer(tiny_recipe(), tmp_path)
    losses = trainer.fit(until_step=4, quiet=True)
    assert trainer.state.skipped == 1
    assert trainer.state.step == 4
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_micro_batch_is_clipped_by_itself() -> None:
    model = nn.Linear(2, 1, bias=False)
    directions = torch.tensor([[30.0, 40.0], [0.0, 0.5]])
    for direction in directions:
        with clip_separately(model, 1.0):
            (model.weight * direction).sum().backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8 + 0.5]]))


def test_no_micro_batch_weighs_more_than_its_share(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    limits = {"free": "1e3", "clipped": "1e-3"}
    for name, limit in limits.items():
        recipe = tiny_recipe(f"optimizer.micro_batch_clip={limit}")
        Trainer(recipe, tmp_path / name).fit(until_step=3, quiet=True)
    free, clipped = (scalars_of(tmp_path / n / "scalars")["train/gradient_norm"] for n in limits)
    assert max(clipped) <= 1.001e-3 < min(free)


def test_a_run_that_only_diverges_ends(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(), tmp_path)
    with torch.no_grad():
        trainer.model.get_parameter("initial_memory").fill_(math.inf)
    with pytest.raises(NonFiniteLossError, match="in a row"):
        trainer.fit(quiet=True)


def test_a_folder_of_another_run_is_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    Trainer(tiny_recipe(), tmp_path).fit(until_step=0, quiet=True)
    with pytest.raises(RecipeError, match="seed"):
        Trainer(tiny_recipe("seed=4"), tmp_path)
    with pytest.raises(RecipeError, match="optimizer"):
        Trainer(tiny_recipe("optimizer.name=adamw"), tmp_path)
    Trainer(tiny_recipe("budget_tokens=9", "threads=2"), tmp_path)


@pytest.mark.parametrize("override", ["curriculum.stages=[{size = 10}]", "evaluation.sizes=[10]"])
def test_sizes_beyond_the_limits_are_refused_at_once(
    tiny_recipe: TinyRecipe, tmp_path: Path, override: str
) -> None:
    with pytest.raises(RecipeError, match=r"size 10.*71.*64"):
        Trainer(tiny_recipe(override), tmp_path)


def test_a_kill_while_saving_leaves_the_last_state(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_recipe(), tmp_path)
    trainer.fit(until_step=2, quiet=True)
    before = (tmp_path / STATE).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.loop.state.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.state.save(tmp_path)
    assert (tmp_path / STATE).read_bytes() == before


def test_a_slow_save_is_not_followed_by_another_at_once(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, now, saved = Trainer(tiny_recipe("save_every_seconds=3"), tmp_path), 0.0, list[int]()

    def monotonic() -> float:
        nonlocal now
        now += 1
        return now

    def export(_: Trainer) -> str:
        nonlocal now
        now += 100
        saved.append(trainer.state.step)
        return ""

    monkeypatch.setattr("training.loop.trainer.time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(Trainer, "export", export)
    trainer.fit(until_step=12, quiet=True)
    assert saved == [4, 8, 12]


def test_every_parameter_has_one_optimizer(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(), tmp_path)
    held = [
        p
        for o in build_optimizers(trainer.model, trainer.recipe.optimizer)
        for group in o.param_groups
        for p in group["params"]
    ]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in trainer.model.parameters()}


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(batch))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_treats_matrices_alone_and_together_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(4, 6, generator=generator) for _ in range(2)]
    gradients = [torch.randn(4, 6, generator=generator) for _ in range(2)]

    def make_steps(chosen: list[int]) -> list[Tensor]:
        parameters = [nn.Parameter(starts[i].clone()) for i in chosen]
        optimizer = Muon(parameters, lr=0.1)
        for _ in range(3):
            for i, parameter in zip(chosen, parameters, strict=True):
                parameter.grad = gradients[i].clone()
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    together = make_steps([0, 1])
    for i in range(2):
        torch.testing.assert_close(make_steps([i])[0], together[i])


def test_rates_rise_hold_and_fall(tiny_recipe: TinyRecipe) -> None:
    settings = tiny_recipe("optimizer.warmup_steps=4", "optimizer.decay_share=0.5").optimizer
    assert compute_rate_factor(settings, 0, 0.0) == 0.25
    assert compute_rate_factor(settings, 3, 0.0) == 1
    assert compute_rate_factor(settings, 100, 0.5) == 1
    assert compute_rate_factor(settings, 100, 0.75) == pytest.approx(0.5)
    assert compute_rate_factor(settings, 100, 1.2) == 0


def test_the_curriculum_advances_on_accuracy_only(tiny_recipe: TinyRecipe) -> None:
    curriculum = tiny_recipe("curriculum.horizon=1").curriculum
    assert curriculum is not None
    progress = Progress()
    assert progress.record(curriculum, 1.0)
    assert not progress.record(curriculum, 0.5)
    assert progress.size(curriculum) == 2
    assert progress.record(curriculum, 0.95)
    assert not progress.record(curriculum, 1.0)
    assert progress.size(curriculum) == 3
    sizes = [progress.draw_size(curriculum, 1, step, 0) for step in range(200)]
    assert set(sizes) == {1, 2, 3}
    assert 70 < sum(size == 3 for size in sizes) < 130


def test_small_sizes_are_rehearsed_as_often_as_large_ones(tiny_recipe: TinyRecipe) -> None:
    curriculum = tiny_recipe(
        "curriculum.stages=[{size=64}]",
        "curriculum.rehearsal=0.5",
        "curriculum.rehearsed=by-octave",
    ).curriculum
    assert curriculum is not None
    sizes = [Progress().draw_size(curriculum, 1, step, 0) for step in range(1200)]
    assert set(sizes) <= set(range(1, 65))
    for low in (1, 2, 4, 8, 16, 32):
        assert 60 < sum(low <= size < 2 * low for size in sizes) < 140


def test_a_stage_ends_with_its_share_of_the_budget(tiny_recipe: TinyRecipe) -> None:
    stages = "[{size=1, until=0.2}, {size=2, advance_at=0.9, until=0.4}, {size=3}]"
    curriculum = tiny_recipe(f"curriculum.stages={stages}").curriculum
    assert curriculum is not None
    progress = Progress()
    progress.follow_budget(curriculum, 0.19)
    assert progress.size(curriculum) == 1
    progress.follow_budget(curriculum, 0.2)
    assert progress.size(curriculum) == 2
    progress.follow_budget(curriculum, 1.0)
    assert progress.size(curriculum) == 3


def test_a_spent_budget_starts_no_stage(tiny_recipe: TinyRecipe) -> None:
    """The run may be continued with a larger one."""
    curriculum = tiny_recipe().curriculum
    assert curriculum is not None
    progress = Progress()
    progress.follow_budget(curriculum, 1.0)
    assert progress.stage == 0


def test_stages_end_in_their_order(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(RecipeError, match="until"):
        tiny_recipe("curriculum.stages=[{size=1, until=0.5}, {size=2, until=0.4}]")

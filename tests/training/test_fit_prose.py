"""`gradmem-train fit prose`, small: a tiny model, tiny data, seconds."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.checkpoints.manifest import read_manifest
from gradmem_core.errors import CheckpointError, DeviceError, OutOfMemoryError, RecipeError
from tests.training.conftest import ProseRecipe
from tests.training.test_trainer import scalars_of
from training.cli import app
from training.loop.curriculum import draw_write_steps
from training.loop.feed import Feed
from training.loop.loss import Outcome, outer_loss
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe
from training.recipes.schema import Recipe
from training.writers import load_writer

STAGES = "schedule=[{until=0.5, write_steps=[0]}, {until=1.0, write_steps=[2]}]"


@pytest.mark.slow
@pytest.mark.slow
def test_one_command_makes_a_checkpoint(fields: list[str], tmp_path: Path) -> None:
    arguments = ["fit", "prose", "--output", str(tmp_path / "run")]
    overrides = [*fields, "workers=1", "evaluation.every_seconds=0.01"]
    for override in overrides:
        arguments += ["--set", override]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run" / "checkpoint"
    checkpoint = load_checkpoint(folder)
    assert checkpoint.name == "prose"
    assert checkpoint.task.absent_answer == " not stated\n"
    training = load_writer(folder).training
    assert training is not None
    assert training.clean
    assert (training.write_steps, training.sizes) == (5, [1, 60])
    assert training.tokens >= 3000
    assert training.contexts > 50
    card = (folder / "README.md").read_text()
    assert "none of its texts were trained on" in card
    scalars = scalars_of(tmp_path / "run" / "scalars")
    assert scalars.keys() >= {
        "train/contexts",
        "selection/size_60/steps_2",
        "selection/size_60/steps_2/homes",
        "selection/size_60/steps_2/absent",
    }
    assert len(set(scalars["train/write_loss"])) > 1
    first = read_manifest(tmp_path / "text")
    assert checkpoint.fingerprint != first.fingerprint
    assert read_manifest(folder).memory == first.memory


def test_a_fresh_run_takes_the_backbone_and_nothing_learned(
    prose_recipe: ProseRecipe, tmp_path: Path
) -> None:
    begun = load_checkpoint(tmp_path / "text", merge=False).model.state_dict()
    fresh = Trainer(prose_recipe(), tmp_path / "fresh").model.state_dict()
    for name, tensor in begun.items():
        own = name.startswith("backbone.") and "lora" not in name
        assert not own or torch.equal(fresh[name], tensor), name
    assert not torch.equal(fresh["initial_memory"], begun["initial_memory"])
    going_on = Trainer(prose_recipe("fresh=false"), tmp_path / "on")
    for name, tensor in going_on.model.state_dict().items():
        assert torch.equal(tensor, begun[name]), name
    assert not going_on.describe().clean  # nobody knows what its weights have seen


def test_a_fresh_run_from_a_damaged_checkpoint_is_refused(
    prose_recipe: ProseRecipe, tmp_path: Path
) -> None:
    weights = tmp_path / "text" / "gradmem.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="a file was damaged or changed"):
        Trainer(prose_recipe(), tmp_path / "run")


def test_stages_set_the_write_steps(prose_recipe: ProseRecipe, tmp_path: Path) -> None:
    trainer = Trainer(
        prose_recipe(
            "schedule=[{until=0.5, write_steps=[0]}, {until=0.9, write_steps=[1, 2]},"
            " {until=1.0, write_steps=[4]}]"
        ),
        tmp_path,
    )
    drawn: dict[float, set[int]] = {}
    for spent in (0.0, 0.49, 0.6, 0.8, 0.95):
        trainer.state.tokens = round(3000 * spent)
        drawn[spent] = {
            draw_write_steps(trainer.recipe, trainer.state.spent, step, 0) for step in range(20)
        }
    assert drawn == {0.0: {0}, 0.49: {0}, 0.6: {1, 2}, 0.8: {1, 2}, 0.95: {4}}


def test_reading_the_text_itself_trains_no_memory(
    prose_recipe: ProseRecipe, tmp_path: Path
) -> None:
    trainer = Trainer(prose_recipe("schedule=[{until=1.0, write_steps=[0]}]"), tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit(until_step=2, quiet=True)
    changed = {
        name for name, t in trainer.model.state_dict().items() if not torch.equal(t, before[name])
    }
    assert changed
    assert all("lora" in name for name in changed)


@pytest.mark.slow
def test_seconds_end_a_run_and_leave_a_whole_checkpoint(fields: list[str], tmp_path: Path) -> None:
    overrides = [f for f in fields if not f.startswith("budget")] + ["budget_seconds=6", STAGES]
    overrides.append("save_every_seconds=0.5")
    trainer = Trainer(load_recipe("prose", overrides), tmp_path / "run")
    trainer.fit(until_step=trainer.state.step + 3, quiet=True)
    assert trainer.state.spent < 1
    trainer.fit(quiet=True)
    assert trainer.state.seconds >= 6
    assert load_checkpoint(tmp_path / "run" / "checkpoint").name == "prose"
    again = Trainer(load_recipe("prose", overrides), tmp_path / "run")
    assert (again.state.step, again.state.contexts) == (trainer.state.step, trainer.state.contexts)
    assert again.fit(quiet=True) == []


def test_a_save_on_the_way_leaves_a_checkpoint(prose_recipe: ProseRecipe, tmp_path: Path) -> None:
    trainer = Trainer(prose_recipe("save_every_seconds=0.001"), tmp_path / "run")
    trainer.fit(until_step=2, quiet=True)
    first = load_checkpoint(tmp_path / "run" / "checkpoint").fingerprint
    trainer.fit(until_step=3, quiet=True)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").fingerprint != first


def test_a_batch_without_memory_is_tried_in_halves(
    prose_recipe: ProseRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(prose_recipe(), tmp_path / "whole").fit(until_step=2, quiet=True)
    sizes: list[int] = []

    def crowded(writer: Any, batch: Any, **options: Any) -> Outcome:
        sizes.append(len(batch.lengths))
        if len(batch.lengths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outer_loss(writer, batch, **options)

    monkeypatch.setattr("training.loop.gradient.outer_loss", crowded)
    halved = Trainer(prose_recipe(), tmp_path / "halved").fit(until_step=2, quiet=True)
    assert halved == pytest.approx(whole, rel=1e-4)
    assert max(sizes) > 2
    assert sizes[-1] <= 2


def test_what_prepares_a_device_changes_nothing(prose_recipe: ProseRecipe, tmp_path: Path) -> None:
    losses = Trainer(prose_recipe(), tmp_path / "plain").fit(until_step=2, quiet=True)
    prepared = Trainer(prose_recipe(), tmp_path / "prepared")
    with closing(Feed(prepared.recipe, prepared.data)) as feed:
        prepared.stepper.warm_up(feed)
    assert all(parameter.grad is None for parameter in prepared.model.parameters())
    assert prepared.fit(until_step=2, quiet=True) == losses


def test_no_memory_for_one_context_is_told(
    prose_recipe: ProseRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Outcome:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("training.loop.gradient.outer_loss", full)
    with pytest.raises(OutOfMemoryError, match="no memory for one context"):
        Trainer(prose_recipe(), tmp_path).fit(quiet=True)


def test_a_lost_device_is_told_and_the_run_goes_on(
    prose_recipe: ProseRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(prose_recipe("save_every_seconds=0.001"), tmp_path / "run")
    calls = 0

    def lost(*args: Any, **options: Any) -> Outcome:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
        return outer_loss(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr("training.loop.gradient.outer_loss", lost)
        with pytest.raises(DeviceError, match=r"unspecified launch failure\).*continue the run"):
            trainer.fit(quiet=True)
    again = Trainer(prose_recipe("save_every_seconds=0.001"), tmp_path / "run")
    assert 1 <= again.state.step <= trainer.state.step
    again.fit(until_step=4, quiet=True)
    assert again.state.step == 4


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("mixture.sources={homes=0}", "weights sum to nothing"),
        ("mixture.sources={homes=-1}", "mixture.sources"),
        ("mixture.sources={homes=inf}", "mixture.sources"),
        ("budget_seconds=inf", "budget_seconds"),
        ("mixture.windows=[]", "mixture.windows"),
        ("mixture.absent=1.5", "mixture.absent"),
        ("budget_seconds=5", "shortest stage would last 0.20 seconds"),
        ("schedule=[{until=0.5, write_steps=[2]}]", "the last one be 1"),
        ("schedule=[{until=1.0, write_steps=[]}]", "schedule"),
        ("curriculum={stages=[{size=1}], rehearsal=0.0}", "either a curriculum or a mixture"),
        ("batch={queries=2, contexts=4, micro_batch=2}", "a mixture goes by tokens"),
        ("batch.micro_batch=2", "contexts and micro_batch go together"),
        ("writer=rmt", "rmt"),
        ("backbone={model_type='llama'}", "backbone"),
    ],
)
def test_a_recipe_that_cannot_work_says_why(
    prose_recipe: ProseRecipe, override: str, named: str
) -> None:
    with pytest.raises(RecipeError, match=named):
        prose_recipe(override)


def test_what_does_not_fit_the_checkpoint_is_refused_before_any_step(
    prose_recipe: ProseRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="takes up to 123 tokens, more than 100"):
        Trainer(prose_recipe("batch.tokens=100"), tmp_path / "a")
    with pytest.raises(RecipeError, match=r"mixture.windows: 300 tokens are more than.*120"):
        Trainer(prose_recipe("mixture.windows=[1, 300]"), tmp_path / "c")
    with pytest.raises(RecipeError, match=r"schedule.write_steps must be from 1 to .* 20"):
        Trainer(prose_recipe("schedule=[{until=1.0, write_steps=[2, 21]}]"), tmp_path / "d")
    with pytest.raises(RecipeError, match=r"evaluation.write_steps must be from 1"):
        Trainer(prose_recipe("evaluation.write_steps=[0]"), tmp_path / "e")
    with pytest.raises(RecipeError, match="a mixture makes the task 'prose', not 'squad'"):
        Trainer(prose_recipe("task=squad"), tmp_path / "b")


def test_a_run_without_a_budget_is_refused(fields: list[str]) -> None:
    recipe = load_recipe("prose", fields).model_dump(mode="json")
    del recipe["budget_seconds"], recipe["budget_tokens"]
    with pytest.raises(ValueError, match="give budget_tokens, budget_seconds or both"):
        Recipe.model_validate(json.loads(json.dumps(recipe)))


def test_samples_of_a_mixture_are_printed(fields: list[str]) -> None:
    arguments = ["sample", "--recipe", "prose", "--size", "60", "--count", "2", "--queries", "2"]
    for field in fields:
        arguments += ["--set", field]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    assert made.stdout.count("    ") == 4
    assert "lives in" in made.stdout
    wrong = CliRunner().invoke(app, [*arguments, "kv"])
    assert (wrong.exit_code, wrong.stderr) == (2, "error: give either a task or --recipe\n")

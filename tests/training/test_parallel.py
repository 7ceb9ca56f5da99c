"""Several processes that train one model, as torchrun starts them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradmem_core.errors import RecipeError
from tests.training.conftest import PHASES, TinyRecipe
from training.loop.feed import Feed
from training.loop.parallel import Processes, choose_device
from training.loop.trainer import Trainer
from training.writers import load_writer

FIELDS = ("batch.contexts=8", "batch.micro_batch=2", "evaluation.every_steps=2")
GRADIENTS = """
import sys
from pathlib import Path

import torch

from training.loop.feed import Feed
from training.loop.parallel import leave_processes
from training.recipes.loading import load_recipe
from training.loop.trainer import Trainer

recipe, folder, *fields = sys.argv[1:]
trainer = Trainer(load_recipe(recipe, fields), Path(folder))
trainer.stepper.sum_gradients(Feed(trainer.recipe, trainer.data))
gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
torch.save((trainer.state.tokens, gradients), Path(folder) / f"{trainer.processes.rank}.pt")
leave_processes()
"""
ONE_DIVERGES = """
import sys
from pathlib import Path

import torch

import training.loop.gradient
import training.loop.trainer
from gradmem_core.errors import NonFiniteLossError
from training.loop.parallel import leave_processes
from training.recipes.loading import load_recipe

recipe, folder, *fields = sys.argv[1:]
trainer = training.loop.trainer.Trainer(load_recipe(recipe, fields), Path(folder))
real = training.loop.gradient.outer_loss


def diverges_once(*args, **options):
    if trainer.processes.rank == 1 and trainer.state.step == 1 and not trainer.state.skipped:
        raise NonFiniteLossError("diverged", samples=[0])
    return real(*args, **options)


training.loop.gradient.outer_loss = diverges_once
trainer.fit(until_step=3, quiet=True)
state = trainer.state
counted = (state.step, state.skipped, state.tokens)
torch.save((counted, trainer.model.state_dict()), Path(folder) / f"{trainer.processes.rank}.pt")
leave_processes()
"""


def torchrun(*command: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def run_script(text: str, recipe: Path, folder: Path) -> list[tuple[object, dict[str, Tensor]]]:
    """Run a script in two processes and return what each saved, by rank."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(text)
    overrides = [*FIELDS, "device=cpu"]
    done = torchrun(script, recipe, folder, *overrides)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(
    tiny_recipe: TinyRecipe, tiny_file: Path, tmp_path: Path
) -> None:
    alone = Trainer(tiny_recipe(*FIELDS), tmp_path / "alone")
    alone.stepper.sum_gradients(Feed(alone.recipe, alone.data))
    expected = {n: p.grad for n, p in alone.model.named_parameters() if p.grad is not None}
    both = run_script(GRADIENTS, tiny_file, tmp_path / "both")
    for tokens, gradients in both:
        assert tokens == alone.state.tokens
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            distance = (gradient - expected[name]).norm() / expected[name].norm()
            assert distance < 1e-6, name
    for name, gradient in both[0][1].items():
        assert torch.equal(gradient, both[1][1][name]), name


@pytest.mark.slow
def test_a_step_that_diverges_in_one_process_is_skipped_by_all(
    tiny_file: Path, tmp_path: Path
) -> None:
    (counted, weights), (others, theirs) = run_script(ONE_DIVERGES, tiny_file, tmp_path / "run")
    assert counted == others
    assert counted[:2] == (3, 1)  # type: ignore[index]
    for name, tensor in weights.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.slow
def test_the_command_trains_evaluates_and_continues_under_torchrun(
    tiny_recipe: TinyRecipe, tiny_file: Path, tmp_path: Path
) -> None:
    fit = ("--no-python", Path(sys.executable).with_name("gradmem-train"), "fit", tiny_file)
    fields = [word for field in (*FIELDS, "device=cpu") for word in ("--set", field)]
    folder = tmp_path / "run"
    done = torchrun(*fit, "--output", folder, *fields, "--set", "budget_tokens=300")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint:") == 1
    first = load_writer(folder / "checkpoint").training
    done = torchrun(*fit, "--output", folder, *fields, "--set", "budget_tokens=600")
    assert done.returncode == 0, done.stderr
    trained = load_writer(folder / "checkpoint")
    alone = Trainer(tiny_recipe(*FIELDS, "budget_tokens=600"), tmp_path / "alone")
    alone.fit(quiet=True)
    assert first is not None
    assert trained.training is not None
    assert first.contexts < trained.training.contexts == 8 * alone.state.step
    assert trained.training.tokens == alone.state.tokens


@pytest.mark.slow
def test_processes_read_texts_and_memories_in_one_step_and_end_by_one_clock(
    tiny_file: Path, tmp_path: Path
) -> None:
    fit = ("--no-python", Path(sys.executable).with_name("gradmem-train"), "fit", tiny_file)
    schedule = "schedule=[{until=1.0, write_steps=[0, 2]}]"
    budget = ("budget_seconds=4", "budget_tokens=1000000", "evaluation.every_steps=1000")
    fields = (*FIELDS, "device=cpu", schedule, *budget)
    done = torchrun(*fit, "--output", tmp_path / "run", *(w for f in fields for w in ("--set", f)))
    assert done.returncode == 0, done.stderr
    training = load_writer(tmp_path / "run" / "checkpoint").training
    assert training is not None
    assert training.contexts >= 8 * 5
    assert training.seconds >= 4


@pytest.mark.slow
def test_phases_follow_each_other_in_all_processes(tiny_file: Path, tmp_path: Path) -> None:
    tiny_file.write_text(tiny_file.read_text() + PHASES)
    fit = ("--no-python", Path(sys.executable).with_name("gradmem-train"), "fit", tiny_file)
    fields = [word for field in (*FIELDS, "device=cpu") for word in ("--set", field)]
    done = torchrun(*fit, "--output", tmp_path / "run", *fields)
    assert done.returncode == 0, done.stderr
    before = load_writer(tmp_path / "run" / "begin" / "checkpoint").training
    training = load_writer(tmp_path / "run" / "checkpoint").training
    assert before is not None
    assert training is not None
    assert training.tokens >= before.tokens + 100 >= 300


@pytest.mark.slow
def test_micro_batches_that_cannot_be_shared_are_refused(tiny_file: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("gradmem-train")
    fit = ("--no-python", script, "fit", tiny_file, "--output", tmp_path / "run")
    done = torchrun(*fit, "--set", "device=cpu", processes=3)
    assert done.returncode != 0
    assert "batch: 3 processes cannot share 2 micro-batches evenly" in done.stderr


def test_one_process_gathers_its_own() -> None:
    assert Processes().gather("mine") == ["mine"]


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(RecipeError, match="device: process 0 on this machine has no GPU"):
        choose_device("cuda")

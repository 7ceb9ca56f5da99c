"""Several processes that train one model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradmem_core.errors import RecipeError
from tests.training.conftest import PHASES, TinyRecipe
from tests.training.ranks import fit_with_a_divergence, run_command, run_ranks, save_gradients
from training.loop.feed import Feed
from training.loop.parallel import Processes, choose_device
from training.loop.trainer import Trainer
from training.writers import load_writer

FIELDS = ("batch.contexts=8", "batch.micro_batch=2", "evaluation.every_steps=2")


def command(recipe: Path, output: Path, *fields: str) -> list[str]:
    """Return the words of `fit` with overrides."""
    overrides = [word for field in (*fields, "device=cpu") for word in ("--set", field)]
    return ["fit", str(recipe), "--output", str(output), *overrides]


def saved(folder: Path) -> list[tuple[object, dict[str, Tensor]]]:
    """Load what each of two processes saved, by rank."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(
    tiny_recipe: TinyRecipe, tiny_file: Path, tmp_path: Path
) -> None:
    alone = Trainer(tiny_recipe(*FIELDS), tmp_path / "alone")
    alone.stepper.sum_gradients(Feed(alone.recipe, alone.data))
    expected = {n: p.grad for n, p in alone.model.named_parameters() if p.grad is not None}
    both = tmp_path / "both"
    output = run_ranks(save_gradients, tiny_file, both, [*FIELDS, "device=cpu"], folder=both)
    assert output.startswith("0\n"), output
    (first, second) = saved(both)
    for tokens, gradients in (first, second):
        assert tokens == alone.state.tokens
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            distance = (gradient - expected[name]).norm() / expected[name].norm()
            assert distance < 1e-6, name
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name


@pytest.mark.slow
def test_a_step_that_diverges_in_one_process_is_skipped_by_all(
    tiny_file: Path, tmp_path: Path
) -> None:
    fields = [*FIELDS, "device=cpu"]
    output = run_ranks(fit_with_a_divergence, tiny_file, tmp_path, fields, folder=tmp_path)
    assert output.startswith("0\n"), output
    (counts, weights), (others, theirs) = saved(tmp_path)
    assert counts == others
    assert counts[:2] == (3, 1)  # type: ignore[index]
    for name, tensor in weights.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.slow
def test_a_run_is_evaluated_and_continued_by_torchrun(
    tiny_recipe: TinyRecipe, tiny_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = command(tiny_file, folder, *FIELDS, "budget_tokens=300")
    output = run_ranks(run_command, *words, folder=tmp_path)
    assert output.startswith("0\n"), output
    assert output.count("checkpoint:") == 1
    first = load_writer(folder / "checkpoint").training
    program = Path(sys.executable).with_name("gradmem-train")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    words = command(tiny_file, folder, *FIELDS, "budget_tokens=600")
    result = subprocess.run(
        [sys.executable, *launcher, program, *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
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
    schedule = "schedule=[{until=1.0, write_steps=[0, 2]}]"
    budget = ("budget_seconds=4", "budget_tokens=1000000", "evaluation.every_steps=1000")
    words = command(tiny_file, tmp_path / "run", *FIELDS, schedule, *budget)
    output = run_ranks(run_command, *words, folder=tmp_path)
    assert output.startswith("0\n"), output
    training = load_writer(tmp_path / "run" / "checkpoint").training
    assert training is not None
    assert training.contexts >= 8 * 5
    assert training.seconds >= 4


@pytest.mark.slow
def test_phases_follow_each_other_in_all_processes(tiny_file: Path, tmp_path: Path) -> None:
    tiny_file.write_text(tiny_file.read_text() + PHASES)
    words = command(tiny_file, tmp_path / "run", *FIELDS)
    output = run_ranks(run_command, *words, folder=tmp_path)
    assert output.startswith("0\n"), output
    before = load_writer(tmp_path / "run" / "begin" / "checkpoint").training
    training = load_writer(tmp_path / "run" / "checkpoint").training
    assert before is not None
    assert training is not None
    assert training.tokens >= before.tokens + 100 >= 300


@pytest.mark.slow
def test_micro_batches_that_cannot_be_shared_are_refused(tiny_file: Path, tmp_path: Path) -> None:
    words = command(tiny_file, tmp_path / "run")
    output = run_ranks(run_command, *words, folder=tmp_path, count=3)
    assert not output.startswith("0\n")
    assert "batch: 3 processes cannot share 2 micro-batches evenly" in output


def test_one_process_gathers_its_own() -> None:
    assert Processes().gather("mine") == ["mine"]


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(RecipeError, match="device: process 0 on this machine has no GPU"):
        choose_device("cuda")

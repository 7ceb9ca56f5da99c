"""Runs in phases."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gradmem_core.errors import RecipeError
from tests.training.conftest import PHASES
from training.cli import app
from training.loop.phases import fit_phases
from training.loop.state import RunState, is_finished
from training.loop.trainer import Trainer
from training.recipes.loading import load_phases
from training.writers import load_writer


@pytest.fixture
def phased_file(tiny_file: Path) -> Path:
    tiny_file.write_text(tiny_file.read_text() + PHASES)
    return tiny_file


def test_each_phase_starts_from_the_one_before(phased_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = CliRunner().invoke(app, ["fit", str(phased_file), "--output", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"checkpoint: {folder / 'checkpoint'}\n")
    begin, end = load_writer(folder / "begin" / "checkpoint"), load_writer(folder / "checkpoint")
    assert (begin.name, end.name) == ("tiny-begin", "tiny")
    assert begin.training is not None
    assert end.training is not None
    assert begin.training.tokens >= 200
    assert end.training.tokens >= begin.training.tokens + 100
    assert (begin.training.sizes, end.training.sizes) == ([1, 2, 3], [3])


def test_a_run_goes_on_in_the_phase_that_it_had_reached(
    phased_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = load_phases(phased_file)
    whole = fit_phases(phases, tmp_path / "whole", quiet=True)
    folder = tmp_path / "parts"
    Trainer(phases[0].recipe, folder / "begin").fit(until_step=2, quiet=True)
    real = RunState.save

    def save(state: RunState, place: Path) -> None:
        if place == folder:
            raise KeyboardInterrupt
        real(state, place)

    monkeypatch.setattr(RunState, "save", save)
    with pytest.raises(KeyboardInterrupt):
        fit_phases(phases, folder, quiet=True)
    monkeypatch.undo()
    finished = (folder / "begin" / "state.pt").stat().st_mtime_ns
    resumed = fit_phases(phases, folder, quiet=True)
    assert (folder / "begin" / "state.pt").stat().st_mtime_ns == finished
    assert resumed.state.step == whole.state.step
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_kill_between_checkpoint_and_state_leaves_a_phase_to_finish(
    phased_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = load_phases(phased_file, ["save_every_seconds=1e-9"])
    real = Trainer.export

    def export(trainer: Trainer) -> str:
        if trainer.state.spent >= 1:
            raise KeyboardInterrupt
        return real(trainer)

    monkeypatch.setattr(Trainer, "export", export)
    with pytest.raises(KeyboardInterrupt):
        fit_phases(phases, tmp_path, quiet=True)
    assert not is_finished(tmp_path / "begin", phases[0].recipe)


@pytest.mark.parametrize(
    ("phase", "problem"),
    [
        ("memory.memory_tokens = 5", r"initial_memory of tiny-begin is \[4, 16\].*\[5, 16\]"),
        ("memory.write_head = false", "write_head.weight of tiny-begin.*no such weight"),
        ("curriculum.stages = [{ size = 10 }]", "size 10: .* longer than memory"),
        ("train_write_steps = 21", "phase 'end': train_write_steps"),
    ],
)
def test_a_later_phase_that_would_fail_is_refused_before_any_compute(
    tiny_file: Path, tmp_path: Path, phase: str, problem: str
) -> None:
    begin = PHASES.partition("memory")[0]
    tiny_file.write_text(f"{tiny_file.read_text()}{begin}{phase}\n")
    with pytest.raises(RecipeError, match=problem):
        fit_phases(load_phases(tiny_file), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()

"""The curve of a training run, from its folder."""

import time
from pathlib import Path

import pytest
import torch

from benchmarks.curves import measure_curve
from benchmarks.rows import CurvePoint, TrainingLoss
from gradmem_core.errors import InputError
from tests.training.conftest import TINY
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe


def test_curve_of_a_run_in_two_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    overrides = ["evaluation.every_steps=2", "evaluation.contexts=2"]
    recipe = load_recipe(tmp_path / "tiny.toml", overrides)
    with pytest.raises(InputError, match=r"holds no state\.pt"):
        measure_curve(tmp_path)
    Trainer(recipe, tmp_path).fit(until_step=1, quiet=True)
    with pytest.raises(InputError, match="no evaluation yet"):
        measure_curve(tmp_path)
    Trainer(recipe, tmp_path).fit(until_step=2, quiet=True)
    time.sleep(1)  # between sessions, so not the run's
    trainer = Trainer(recipe, tmp_path)
    trainer.fit(until_step=4, quiet=True)
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = measure_curve(tmp_path, name="tiny", trained_on="one H100")
    assert (found.seed, threads) == (recipe.seed, [recipe.threads])
    assert found.notes == ("trained on one H100",)
    rows = list(found.rows)
    points = [row for row in rows if isinstance(row, CurvePoint)]
    assert [(point.run, point.step, point.contexts) for point in points] == [
        ("tiny", 2, 8),
        ("tiny", 4, 16),
    ]
    assert [(point.size, point.write_steps) for point in points] == [(1, 1)] * 2
    assert found.subject
    assert found.subject.training
    assert found.subject.training.contexts == 16
    assert found.subject.training.seconds == pytest.approx(trainer.state.seconds)
    assert points[-1].seconds == pytest.approx(trainer.state.seconds, abs=0.8)
    losses = [row.loss for row in rows if isinstance(row, TrainingLoss)]
    assert len(losses) == 4  # a step each
    assert all(0 < loss < 10 for loss in losses)
    trainer.fit(until_step=11, quiet=True)
    longer = [row for row in measure_curve(tmp_path).rows if isinstance(row, TrainingLoss)]
    assert [(row.part, row.parts) for row in longer] == [(part, 5) for part in range(1, 6)]
    assert longer[0].loss == pytest.approx(sum(losses[:2]) / 2, abs=1e-3)

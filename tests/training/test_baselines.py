"""`scripts/baselines.py`: several runs at the same time, packed."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.curves import measure_curve
from benchmarks.report.command import ROOT
from training.writers import load_writer


def run_script(folder: Path, *recipes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "baselines.py", "out", *recipes],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_runs_come_back_with_scores_and_curves(tiny_file: Path, tmp_path: Path) -> None:
    overrides = "writer=gradmem-first-order name=other budget_tokens=300 evaluation.every_steps=1"
    done = run_script(tmp_path, f"{tiny_file} {overrides} evaluation.contexts=2")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out" / "other.json").read_text())
    assert scores["contexts"] > 0
    assert scores["exact_match"].keys() == {"1", "2", "3"}
    with tarfile.open(tmp_path / "out" / "other.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    assert load_writer(tmp_path / "other" / "checkpoint").writer.kind == "gradmem-first-order"
    assert list(measure_curve(tmp_path / "other").rows)


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path: Path) -> None:
    done = run_script(tmp_path, "kv-8", "kv-8 seed=2")
    assert done.returncode == 1
    assert done.stderr == "error: two recipes have one name; add name=OTHER to one of them\n"
    assert not list(tmp_path.iterdir())

"""The Slurm job on this machine: two machines of Slurm are two calls of torchrun here."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from training.writers import load_writer

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "deploy" / "slurm" / "fit.sbatch"
SCRIPTS = Path(sysconfig.get_path("scripts"))
SRUN = """#!/bin/sh
test "$1 $2" = "--cpus-per-task 3" || exit 2
shift 2
"$@" & first=$!
"$@" & second=$!
wait $first && wait $second
"""
SCONTROL = """#!/bin/sh
test "$*" = "show hostnames machine[1-2]" && echo localhost && echo elsewhere
"""


@pytest.mark.slow
def test_two_machines_train_one_model(tiny_file: Path, tmp_path: Path) -> None:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    fields = ("device=cpu", "batch.contexts=8", "batch.micro_batch=2", "budget_tokens=600")
    overrides = [word for field in fields for word in ("--set", field)]
    run = tmp_path / "run"
    result = subprocess.run(
        ["bash", JOB, tiny_file, "--output", run, *overrides],
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "BIN": str(SCRIPTS),
            "SLURM_JOB_NODELIST": "machine[1-2]",
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_NNODES": "2",
            "SLURM_GPUS_ON_NODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("checkpoint:") == 1
    training = load_writer(run / "checkpoint").training
    assert training is not None
    assert training.tokens >= 600
    assert training.contexts % 8 == 0

"""Results describe how they were made."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from benchmarks.results import commit_of, make_result, this_machine
from benchmarks.rows import PeakMemory

ROWS = [PeakMemory(batch=1, pairs=2, steps=3, bytes=4)]


def test_a_result_says_how_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/a/b/gradmem-bench", "records", "a b", "/c/d"])
    machine = this_machine(torch.device("cpu"))
    made = make_result(
        ROWS, started=time.perf_counter(), commit=commit_of(), seed=3, machine=machine
    )
    assert (made.command, made.seed) == ("gradmem-bench records 'a b' d", 3)
    assert 0 <= made.seconds < 60
    assert abs((made.date - datetime.now(UTC)).total_seconds()) < 60
    assert made.machine.threads == torch.get_num_threads() <= made.machine.cores
    assert len(made.commit.removesuffix("-dirty")) == 40


def test_commit_outside_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path) == "unknown"

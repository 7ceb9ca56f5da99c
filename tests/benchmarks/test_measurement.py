"""What benchmarks share."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from benchmarks import measurement


def test_header_is_taken_from_here_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    made = measurement.header("gradmem-train x", seed=3, started=time.perf_counter() - 2)
    assert (made.command, made.seed) == ("gradmem-train x", 3)
    assert 2 <= made.seconds < 60
    assert abs((made.date - datetime.now(UTC)).total_seconds()) < 60
    assert made.machine.cores >= 1
    monkeypatch.setattr("sys.argv", ["/a/b/gradmem-train", "evaluate", "a b"])
    assert measurement.this_command() == "gradmem-train evaluate 'a b'"


def test_commit_outside_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert measurement.commit(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert measurement.commit(tmp_path) == "unknown"


def test_works_are_timed_in_turn() -> None:
    done: list[str] = []
    works = {name: lambda name=name: done.append(name) for name in "abc"}
    seconds = measurement.alternate(works, rounds=3)
    assert "".join(done) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_rounds() -> None:
    assert measurement.median_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            held = torch.empty(1000, dtype=torch.float32)
            del held

    assert 4000 <= measurement.peak_bytes(work) < 8000

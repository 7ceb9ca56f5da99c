"""Fair timing, and the memory that work needs."""

import torch

from benchmarks.timing import alternate, median_ratio, peak_bytes


def test_works_are_timed_in_turn() -> None:
    done: list[str] = []
    works = {name: lambda name=name: done.append(name) for name in "abc"}
    seconds = alternate(works, rounds=3)
    assert "".join(done) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_rounds() -> None:
    assert median_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            held = torch.empty(1000, dtype=torch.float32)
            del held

    assert 4000 <= peak_bytes(work) < 8000

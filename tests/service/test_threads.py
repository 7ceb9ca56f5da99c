"""The number of threads that a thread computes with."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from service.engine.threads import count_cores, leave_cores_to_the_engine, use_threads


def test_a_thread_keeps_its_number_whatever_other_threads_set() -> None:
    usual = torch.get_num_threads()
    engine_set, others_set = threading.Event(), threading.Event()

    def count_threads_of_the_engine() -> int:
        use_threads(3)
        engine_set.set()
        assert others_set.wait(30)
        return torch.get_num_threads()

    try:
        with ThreadPoolExecutor() as engine:
            counted = engine.submit(count_threads_of_the_engine)
            assert engine_set.wait(30)
            with ThreadPoolExecutor(initializer=use_threads, initargs=(1,)) as workers:
                assert workers.submit(torch.get_num_threads).result() == 1
                others_set.set()
                assert counted.result() == 3
                assert workers.submit(torch.get_num_threads).result() == 1
    finally:
        use_threads(usual)


def test_none_leaves_the_number_of_a_thread() -> None:
    usual = torch.get_num_threads()
    assert use_threads(None) == usual
    assert torch.get_num_threads() == usual


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/gone\n", {"cpu.max": "100000 100000"}, 1),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ("2:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cores_are_those_of_affinity_and_quota(
    membership: str,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert count_cores(tmp_path / "cgroup", tmp_path / "membership") == cores


def test_the_engine_has_no_more_threads_than_cores() -> None:
    usual = torch.get_num_threads()
    try:
        use_threads(1000)
        assert leave_cores_to_the_engine(None) == count_cores() <= len(os.sched_getaffinity(0))
        assert torch.get_num_threads() == 1
        assert leave_cores_to_the_engine(5) == 5
    finally:
        use_threads(usual)

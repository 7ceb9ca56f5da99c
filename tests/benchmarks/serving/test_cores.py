"""The cores of a load and of the service that it is sent to."""

import os
import subprocess
import sys

import pytest

from benchmarks.serving.cores import part_cores, restricted_to

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system does not tell cores apart"
)
CORES = "import os; print(sorted(os.sched_getaffinity(0)))"


def started_process_cores() -> str:
    command = [sys.executable, "-c", CORES]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_load_has_a_core_and_the_service_has_the_others() -> None:
    cores = os.sched_getaffinity(0)
    own, others = part_cores()
    assert len(own) == 1
    assert own | others == cores
    assert own.isdisjoint(others) == (len(cores) > 1)


def test_one_core_is_shared() -> None:
    core = {min(os.sched_getaffinity(0))}
    with restricted_to(core):
        assert part_cores() == (core, core)


def test_processes_that_are_started_within_keep_to_the_cores() -> None:
    before = started_process_cores()
    own, _ = part_cores()
    with restricted_to(own):
        assert started_process_cores() == str(sorted(own))
    assert started_process_cores() == before
    with restricted_to(()):
        assert started_process_cores() == before

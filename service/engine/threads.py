"""Share the cores of a process among its threads."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def leave_cores_to_the_engine(threads: int | None) -> int:
    """Restrict the calling thread to one core; call this before it computes anything.

    Args:
        threads: CPU threads of the engine; None for as many as there are cores for it.

    Returns:
        Threads for the engine.
    """
    usual = use_threads(1)  # torch's own choice, which follows OMP_NUM_THREADS
    return threads or min(usual, count_cores())


def use_threads(threads: int | None) -> int:
    """Set the number of threads the calling thread computes with, whatever others set later.

    Args:
        threads: CPU threads; None leaves the number as it is.

    Returns:
        The number before.
    """
    # Read first: at its first look a thread adopts the number that any thread set last.
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    return usual


def count_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Count the cores that this process may use at a time: at least one, and whole ones.

    A quota below the number of cores stops every thread for the rest of a period once it is used
    up, also the one that the others wait for.

    Args:
        cgroups: Where the control groups of the system are mounted.
        membership: The list of the groups that the process is in.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = list(_cpu_quotas(cgroups, membership))
    return max(1, int(min([affinity or 1, *quotas])))


def _cpu_quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Yield the cores that each control group around the process may use, where it has a limit."""
    for line in _read(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        mount = mount if mount.exists() else cgroups / "cpu"
        group = PurePosixPath(own).relative_to("/")
        # In a container the names are those of the host, and its own group is at the top.
        for folder in (group, *group.parents):
            yield from _cpu_quota(mount / folder)


def _cpu_quota(group: Path) -> Iterator[float]:
    quota, period = (_read(group / "cpu.max").split() or [""] * 2)[:2]  # version 2
    if not quota:  # version 1
        quota, period = (
            _read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    if quota.isdecimal() and period.isdecimal():
        yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # there are no control groups here, or not of this version
        return ""

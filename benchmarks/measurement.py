"""What benchmarks share: a result file's header, fair timing, and the memory that work needs."""

import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from torch.profiler import ProfilerActivity, profile

from gradmem_core.errors import InputError

CPUINFO = Path("/proc/cpuinfo")
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Work = Callable[[], object]


class Strict(BaseModel):
    """A part of a result file: unknown fields and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Machine(Strict):
    """Where a measurement ran."""

    cpu: str
    "The processor's name."
    cores: Count
    "Cores of the machine."
    threads: Count
    "Threads that torch used."
    torch: str
    "torch's version."


class Header(Strict):
    """What every result file says about its making."""

    command: str
    "The command line that made it."
    commit: str
    "Git commit of the code, with `-dirty` where the tree held changes; `unknown` outside git."
    machine: Machine
    "Where it ran."
    seed: Annotated[int, Field(ge=0)]
    "Seed of the measurement."
    seconds: Seconds
    "Wall-clock time of the measurement."
    date: AwareDatetime
    "When it ended, UTC."


def header(command: str, *, seed: int, started: float) -> Header:
    """Describe the measurement that has just ended.

    Args:
        command: The command line; `this_command()` for the running one.
        seed: Seed of the measurement.
        started: `time.perf_counter()` at its start.
    """
    return Header(
        command=command,
        commit=commit(Path(__file__).parent),
        machine=machine(),
        seed=seed,
        seconds=round(time.perf_counter() - started, 3),
        date=datetime.now(UTC).replace(microsecond=0),
    )


def as_json(result: Header) -> str:
    """The text of a result's file."""
    return result.model_dump_json(indent=2) + "\n"


def save_result(path: Path, result: Header) -> None:
    """Write a result's file.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_json(result), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def this_command(module: str | None = None) -> str:
    """The running program's command line, without the folder that the program lies in.

    Args:
        module: What was run by `python -m`; None for a program of its own.
    """
    program = [Path(sys.argv[0]).name] if module is None else ["python", "-m", module]
    return shlex.join([*program, *sys.argv[1:]])


def machine() -> Machine:
    """This machine, as torch uses it now."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
    )


def commit(folder: Path) -> str:
    """Git commit of a folder's checkout, with `-dirty` where tracked files hold changes.

    Files below `docs` do not count as changes: results lie there. Outside git it is `unknown`.
    """
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return "unknown"
    changes = _git(
        folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs"
    )
    return f"{head}-dirty" if changes else head


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time works in turn, so that what else the machine does meets all of them.

    Each is done once before, untimed.

    Args:
        works: What to time, by name.
        rounds: How often; every round begins with another one.

    Returns:
        Seconds of each, by round.
    """
    for work in works.values():
        work()
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_bytes(work: Work) -> int:
    """The most bytes of CPU tensors that a work has allocated at once, beyond what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command says; None where there is no git, or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """The processor's name as Linux gives it, or else as Python knows it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"

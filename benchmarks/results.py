"""The format of results: one JSON file for each measuring command, in `benchmarks/results`.

A result is a header, which says how it was made and of what, and flat rows, so that tables can put
rows of many files together. Shares are from 0 to 1, times in seconds, sizes in bytes unless a field
says otherwise.
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import InputError
from training.problems import describe_problem
from training.writers import Training

RESULTS = Path(__file__).parent / "results"
CPUINFO = Path("/proc/cpuinfo")
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Scalar = str | int | float | bool | None


class Strict(BaseModel):
    """A part of a result: unknown fields and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Row(Strict):
    """A line of a result. Subclasses stand in `benchmarks.rows`, one for each measurement."""

    measurement: str
    "Name of the measurement; it decides the other fields."


R = TypeVar("R", bound=Row)


class Machine(Strict):
    """The machine of a measurement."""

    cpu: str
    "Name of the processor."
    cores: Count
    "Cores of the machine."
    threads: Count
    "Threads that torch used."
    torch: str
    "Version of torch."
    device: str = "cpu"
    "`cpu`, or the GPU's name."


class Subject(Strict):
    """The checkpoint that was measured."""

    checkpoint: str
    "Its name; of a run without a checkpoint the run's."
    fingerprint: str | None
    "Null for a run that is measured while it trains."
    training: Training | None = None
    "Record of its training, if that is known."


class Result(Strict):
    """The outcome of one measuring command."""

    command: str
    "Command line that made it."
    commit: str
    """Git commit of the code at the measurement's start, with `-dirty` where the tree held changes;
    `unknown` outside git."""
    machine: Machine
    seed: Amount
    "Seed of the measurement."
    seconds: Seconds
    "Wall-clock time of the measurement."
    date: AwareDatetime
    "End of the measurement, UTC."
    subject: Subject | None = None
    "The checkpoint that was measured, if any."
    notes: tuple[str, ...] = ()
    "Parts that were left out, and why; where a run was trained, if elsewhere."
    rows: Annotated[tuple[dict[str, Scalar], ...], Field(min_length=1)]


@dataclass(frozen=True)
class ResultFile:
    """A result with its file."""

    name: str
    "Path below `benchmarks/results`, without `.json`; for a file elsewhere its own name."
    result: Result


def make_result(rows: Sequence[Row], *, started: float, **fields: object) -> Result:
    """Describe a measurement that has just ended.

    Args:
        rows: What was measured.
        started: `time.perf_counter()` at its start.
        fields: The other fields that are not those of every result of this process.
    """
    described = {
        "command": running_command(),
        "seconds": round(time.perf_counter() - started, 3),
        "date": datetime.now(UTC).replace(microsecond=0),
        "rows": tuple(row.model_dump() for row in rows),
    }
    return Result.model_validate(described | fields)


def subject_of(checkpoint: Checkpoint, training: Training | None = None) -> Subject:
    """Name a checkpoint in a result."""
    return Subject(
        checkpoint=checkpoint.name, fingerprint=checkpoint.fingerprint, training=training
    )


def rows_of(kind: type[R], files: Iterable[ResultFile]) -> Iterator[tuple[ResultFile, R]]:
    """Yield the rows of one measurement with the files that they stand in.

    Raises:
        InputError: A row lacks a field, or has one of another type; the error names both.
    """
    measurement = kind.model_fields["measurement"].default
    for file in files:
        for number, row in enumerate(file.result.rows):
            if row["measurement"] != measurement:
                continue
            try:
                yield file, kind.model_validate(row)
            except ValidationError as error:
                problems = "; ".join(describe_problem(entry) for entry in error.errors())
                raise InputError(f"{file.name}: rows.{number}: {problems}") from error


def load_result(path: Path) -> ResultFile:
    """Read a file.

    Raises:
        InputError: It cannot be read or is not a result; the error names the file and the field.
    """
    try:
        return ResultFile(_name(path), Result.model_validate_json(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(describe_problem(entry) for entry in error.errors())
        raise InputError(f"{path} is not a result file: {problems}") from error


def load_results(folder: Path = RESULTS) -> list[ResultFile]:
    """Read every `*.json` of a folder and of the folders in it, by name.

    Raises:
        InputError: The folder is missing, or one of the files is not a result.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one with the result files")
    return [load_result(path) for path in sorted(folder.rglob("*.json"))]


def save_result(path: Path, result: Result) -> None:
    """Write a file.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def running_command() -> str:
    """Return the running program's command line, absolute paths cut down to their last part."""
    program = Path(sys.argv[0])
    module = program.name == "__main__.py"
    start = ["python", "-m", program.parent.name] if module else [program.name]
    arguments = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    return shlex.join([*start, *arguments])


def this_machine(device: torch.device) -> Machine:
    """Describe this machine as torch uses it now, with the device of the measurement."""
    on_gpu = device.type == "cuda"
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
    )


def commit_of(folder: Path = RESULTS.parent) -> str:
    """Return the commit of a folder's checkout, with `-dirty` where tracked files hold changes.

    Result files do not count as changes. Outside git it is `unknown`.
    """
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return "unknown"
    tracked = ("status", "--porcelain", "--untracked-files=no", "--")
    changes = _git(folder, *tracked, ":/", ":(top,exclude)benchmarks/results")
    return f"{head}-dirty" if changes else head


def _name(path: Path) -> str:
    whole = path.resolve().with_suffix("")
    below = whole.is_relative_to(RESULTS)
    return whole.relative_to(RESULTS).as_posix() if below else whole.name


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None where there is no git, or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """Return the processor's name as Linux gives it, or else as Python knows it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"

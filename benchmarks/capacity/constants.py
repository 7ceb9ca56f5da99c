"""`gradmem-bench constants`: the constants of `gradmem plan`, from result files."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.command import reported_errors
from benchmarks.results import ResultFile, load_result, load_results, rows_of
from benchmarks.rows import CurvePoint, Load, ReadingTime, RedisCost, StepTime
from gradmem_core.errors import InputError
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import (
    FILE,
    Constants,
    DeviceRates,
    HttpLimit,
    Rate,
    ReadBackCost,
    RedisCosts,
)
from service.engine import Operation
from training.recipes.loading import load_recipe
from training.tasks.kv import KeyValueTask

CPU = "cpu"
H200 = "h200"
TRAINED_ON_H200 = "kv-96"
"Checkpoint whose curve has the speed of one H200."
STEP_TIMES = "serving/step-times-"
"Files of `step-times`; those of `queueing` have step times of a busy machine, too."
READ_BACK = re.compile(r"read it back, (\d+) probes")


def write_constants(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Result files of step-times of one device, to print its constants."),
    ] = None,
) -> None:
    """Write the constants of `gradmem plan` from the result files.

    With FILES, print constants with the device that those were measured on, for `gradmem plan
    --constants`.
    """
    with reported_errors():
        if files:
            typer.echo(make_constants(load_results(), [load_result(path) for path in files]))
        else:
            FILE.write_text(make_constants(load_results()) + "\n", encoding="utf-8")
            typer.echo(FILE)


def make_constants(files: Sequence[ResultFile], own: Sequence[ResultFile] = ()) -> str:
    """Return constants as JSON.

    Args:
        files: The repository's results.
        own: Results of step-times on a device that becomes another kind, `own`.

    Raises:
        InputError: Results are missing or malformed.
    """
    timed = [file for file in files if file.name.startswith(STEP_TIMES)]
    cpu = fit_device([file for file in timed if file.result.machine.device == "cpu"])
    devices = {CPU: cpu, H200: infer_h200(files, cpu)}
    if own:
        devices["own"] = fit_device(own)
    constants = Constants(
        devices=devices,
        http=find_http_limit(files),
        redis=fit_redis(files),
        read_back=find_read_back(files),
    )
    return constants.model_dump_json(indent=2)


def fit_device(files: Sequence[ResultFile]) -> DeviceRates:
    """Fit the speed of a device to its step times, for each checkpoint."""
    found = list(rows_of(StepTime, files))
    if not found:
        raise InputError("there are no step times: run gradmem-bench step-times on the device")
    by_file = {file.name: file for file, _ in found}

    def rates(operation: Operation) -> tuple[Rate, ...]:
        return tuple(
            fit_rate(
                file, [row for of, row in found if of.name == name and row.operation == operation]
            )
            for name, file in by_file.items()
        )

    machine = found[0][0].result.machine
    on_gpu = machine.device != "cpu"
    title = machine.device if on_gpu else f"one core of {machine.cpu}"
    return DeviceRates(title=title, basis="measured", write=rates("write"), read=rates("read"))


def fit_rate(file: ResultFile, rows: Sequence[StepTime]) -> Rate:
    """Fit the speed at one operation of a file's checkpoint.

    On a CPU, processor time counts: it is that of an undisturbed core.

    Raises:
        InputError: See `fit_speed`.
    """
    on_gpu = file.result.machine.device != "cpu"
    seconds = [row.seconds if on_gpu else row.processor_seconds for row in rows]
    assert file.result.subject is not None
    source = f"{file.name}: step-time, {rows[0].operation}"
    return fit_speed(rows, seconds, ModelShape.load(file.result.subject.checkpoint), source)


def fit_speed(
    rows: Sequence[StepTime], seconds: Sequence[float], shape: ModelShape, source: str
) -> Rate:
    """Fit seconds as those of passes and those of operations, by least squares of relative errors.

    Args:
        rows: Batches of one operation.
        seconds: Time of each.
        shape: Sizes of the checkpoint.
        source: Their place.

    Raises:
        InputError: There are too few rows, or they do not grow with the operations.
    """
    if len(rows) < 2:
        raise InputError(f"{source}: there are too few step times to fit")
    taken = np.array(seconds)
    relative = np.array([(row.passes, row.flop) for row in rows], dtype=float) / taken[:, None]
    (a_pass, a_flop), *_ = np.linalg.lstsq(relative, np.ones(len(rows)), rcond=None)
    if a_pass < 0:  # too small to be seen
        a_pass, a_flop = 0.0, 1 / float(np.mean(relative[:, 1]))
    if a_flop <= 0:
        raise InputError(f"{source}: the step times do not grow with the operations")
    return Rate(
        pass_seconds=_short(a_pass),
        flops=_short(1 / a_flop),
        layers=shape.layers,
        position_flop=shape.position_flop,
        source=source,
    )


def infer_h200(files: Sequence[ResultFile], cpu: DeviceRates) -> DeviceRates:
    """Infer the speed of an H200, which has trained and never served.

    Operations a second are what it made at least while it trained `kv-96`: with the fewest steps of
    its schedule, without READ, evaluations included. A pass takes as long as on the CPU, where
    small batches are bound by Python's launches too.
    """
    points = [
        (point.contexts, point.seconds)
        for file, point in rows_of(CurvePoint, files)
        if file.name == f"curves/{TRAINED_ON_H200}"
    ]
    (first, started), (last, ended) = min(points), max(points)
    recipe = load_recipe(TRAINED_ON_H200)
    assert recipe.curriculum is not None
    pairs, rehearsal = recipe.curriculum.stages[-1].size, recipe.curriculum.rehearsal
    mean = (1 - rehearsal) * pairs + rehearsal * pairs / 2  # rehearsed evenly
    draws = np.random.default_rng(0)
    tokens = len(KeyValueTask().sample(draws, size=int(mean), queries=1).context)
    steps = min(step for stage in recipe.schedule for step in stage.write_steps)
    shape = ModelShape.load(TRAINED_ON_H200)
    flops = shape.training_flop(tokens, steps) * (last - first) / (ended - started)
    nearest = cpu.rate("read", shape)
    rate = Rate(
        pass_seconds=nearest.pass_seconds,
        flops=_short(flops),
        layers=shape.layers,
        position_flop=shape.position_flop,
        source=f"curves/{TRAINED_ON_H200}: training-curve; a pass: {nearest.source}",
    )
    return DeviceRates(title="NVIDIA H200", basis="inferred", write=(rate,), read=(rate,))


def find_http_limit(files: Sequence[ResultFile]) -> HttpLimit:
    """Return the most requests a second that one process answered, load generator beside it."""
    found = [
        (file, row)
        for file, row in rows_of(Load, files)
        if row.operation == "read" and row.via == "HTTP"
    ]
    most = max(row.concurrency for _, row in found)
    median = statistics.median(row.throughput for _, row in found if row.concurrency == most)
    source = f"{found[0][0].name}: load, READ through HTTP, {most} at once"
    return HttpLimit(requests_per_second=_short(median), source=source)


def fit_redis(files: Sequence[ResultFile]) -> RedisCosts:
    """Fit the bytes of memories in Redis to sizes of records."""
    found = list(rows_of(RedisCost, files))
    rows = [row for _, row in found]
    entry = statistics.median(row.entry_bytes for row in rows)
    without = [row.used_bytes - row.entries * entry for row in rows]
    share, memory = np.polyfit([row.record_bytes for row in rows], without, 1)
    return RedisCosts(
        memory_bytes=_short(memory),
        entry_bytes=_short(entry),
        value_share=_short(share),
        put_seconds=_short(max(row.put_seconds for row in rows)),
        get_seconds=_short(max(row.get_seconds for row in rows)),
        source=f"{found[0][0].name}: redis-cost",
    )


def find_read_back(files: Sequence[ResultFile]) -> ReadBackCost:
    """Return the tokens of a page for each of its probes."""
    for file, row in rows_of(ReadingTime, files):
        if match := READ_BACK.fullmatch(row.work):
            tokens = row.page_tokens / int(match[1])
            return ReadBackCost(tokens_per_probe=tokens, source=f"{file.name}: reading-time")
    raise InputError("no reading time has a page that is read back")


def _short(value: float) -> float:
    """Round to four digits."""
    return float(f"{value:.4g}")

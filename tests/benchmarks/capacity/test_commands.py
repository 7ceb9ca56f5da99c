"""Measurements behind the capacity plan, from their options to their rows."""

from pathlib import Path

import pytest

from benchmarks.capacity import queueing
from benchmarks.capacity.constants import fit_redis, fit_speed, make_constants
from benchmarks.results import load_results
from benchmarks.rows import OpenLoad, RedisCost, StepTime
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import FILE
from tests.benchmarks.commands import measure_rows
from tests.benchmarks.report.made_up import result_file


def test_step_times_are_counted_and_timed(tiny_folder: Path) -> None:
    options = ("--tokens", "4,8", "--batches", "1,2", "--rounds", 1)
    rows = measure_rows(StepTime, "step-times", tiny_folder, *options)
    writes = [(row.tokens, row.batch) for row in rows if row.operation == "write"]
    assert writes == [(4, 1), (4, 2), (8, 1), (8, 2)]
    shape = ModelShape.load(tiny_folder)
    assert rows[1].flop == 2 * shape.gradient_step_flop(4)
    assert [row.batch for row in rows if row.operation == "read"] == [1, 2]


def test_a_speed_is_fitted_to_its_passes_and_operations() -> None:
    rows = [
        StepTime(
            operation="read",
            tokens=4,
            batch=batch,
            passes=5,
            flop=batch * 10**9,
            seconds=9.0,
            processor_seconds=5 * 0.01 + batch * 0.2,
        )
        for batch in (1, 4, 16)
    ]
    seconds = [row.processor_seconds for row in rows]
    rate = fit_speed(rows, seconds, ModelShape.load("kv-96"), "here")
    assert rate.pass_seconds == pytest.approx(0.01)
    assert rate.flops == pytest.approx(5e9)


@pytest.mark.slow
def test_redis_costs_are_those_of_the_server() -> None:
    options = ("--memories", 200, "--sizes", "1000,20000")
    small, large = measure_rows(RedisCost, "redis-costs", *options)
    assert small.entries == large.entries == 2
    assert small.record_bytes < small.value_bytes < small.used_bytes
    assert 60 < small.entry_bytes < 300


@pytest.mark.slow
def test_a_queue_is_measured_simulated_and_calculated(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "PAIRS", 2)
    # A tiny model takes as long for one document as for a few, on a busy machine even longer.
    monkeypatch.setattr(queueing, "TIMED_BATCHES", (1, 256))
    rows = measure_rows(OpenLoad, "queueing", tiny_folder, "--factors", "0.3", "--seconds", 2)
    measured, simulated, own, formula = rows
    assert [row.source for row in rows] == [
        "measured",
        "simulated",
        "simulated with its own step times",
        "formula",
    ]
    assert measured.sent == simulated.sent == own.sent == formula.sent
    assert measured.failed == own.failed == 0
    assert own.p50 is not None
    assert own.p50 < 1


def test_bytes_in_redis_are_fitted_to_the_size_of_records() -> None:
    rows = [
        RedisCost(
            memories=10,
            record_bytes=size,
            used_bytes=300 + 1.1 * size + 2 * 130,
            value_bytes=size,
            entries=2,
            entry_bytes=130,
            put_seconds=5e-5,
            get_seconds=1e-5,
        )
        for size in (1000, 5000, 20000)
    ]
    costs = fit_redis([result_file(*rows, name="serving/redis-costs")])
    assert costs.memory_bytes == pytest.approx(300)
    assert costs.value_share == pytest.approx(1.1)
    assert costs.source == "serving/redis-costs: redis-cost"


def test_the_packaged_constants_are_those_of_the_results() -> None:
    assert FILE.read_text() == make_constants(load_results()) + "\n"

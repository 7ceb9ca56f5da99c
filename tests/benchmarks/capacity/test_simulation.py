"""The engine's scheduler and admission in simulated time."""

from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.capacity.simulation import Simulation
from benchmarks.serving.arrivals import random_times
from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import Rate
from service.capacity.queueing import Demand, predict_latency
from service.engine import AdmissionLimits, BatchLimits
from service.load import percentiles

TOKENS, STEPS = 100, 5
PASS = 0.1
SHAPE = ModelShape.load("kv-96")
STEP_FLOP = SHAPE.gradient_step_flop(TOKENS)
RATE = Rate(
    pass_seconds=PASS,
    flops=STEP_FLOP / 0.02,  # 20 ms for each document of a step
    layers=SHAPE.layers,
    position_flop=SHAPE.position_flop,
    source="made up",
)
CHECKPOINT = cast("Checkpoint", SimpleNamespace(name="made-up", parameters=1))
SCORING = SHAPE.scoring_flop(TOKENS) / RATE.flops
ALONE = STEPS * (PASS + 0.02) + SCORING


def simulation(**limits: float) -> Simulation:
    settings: dict[str, float] = {"tokens": 10**6, "seconds": 600, "wait_seconds": 600, **limits}
    return Simulation(
        CHECKPOINT,
        SHAPE,
        RATE,
        batch_limits=BatchLimits(batch_tokens=10**6, batch_queries=1),
        admission_limits=AdmissionLimits(**settings),  # type: ignore[arg-type]
    )


def latencies(made: Simulation) -> list[float]:
    return [each.ended - each.began for each in made.handled if not each.refused]


def test_a_request_alone_takes_its_steps() -> None:
    made = simulation()
    made.send_at([1.0, 100.0], tokens=TOKENS, steps=STEPS)
    assert latencies(made) == [pytest.approx(ALONE)] * 2


def test_requests_at_once_share_their_steps() -> None:
    made = simulation()
    made.send_at([0.0, 0.0], tokens=TOKENS, steps=STEPS)
    assert latencies(made) == [pytest.approx(STEPS * (PASS + 0.04) + 2 * SCORING)] * 2


def test_a_late_request_waits_for_the_running_step_and_then_joins() -> None:
    made = simulation()
    made.send_at([0.0, 0.05], tokens=TOKENS, steps=STEPS)
    first, second = sorted(latencies(made))
    assert first == pytest.approx(ALONE + 4 * 0.02)
    # It waits 70 ms, has four steps beside the first, and one alone.
    assert second == pytest.approx(0.07 + 4 * (PASS + 0.04) + SCORING + PASS + 0.02 + SCORING)


def test_the_service_refuses_what_would_wait_too_long_and_answers_the_rest() -> None:
    made = simulation(wait_seconds=2)
    times = list(random_times(40, 30, seed=1))  # twice what it can do
    made.send_at(times, tokens=TOKENS, steps=STEPS)
    assert len(made.handled) == len(times)
    refused = sum(each.refused for each in made.handled)
    assert 0.2 < refused / len(times) < 0.9
    assert max(latencies(made)) < 600


def test_workers_in_a_closed_loop_keep_the_device_busy() -> None:
    made = simulation()
    made.keep_busy(workers=8, seconds=60, tokens=TOKENS, steps=STEPS)
    per_request = STEPS * (PASS / 8 + 0.02) + SCORING
    assert len(made.handled) / made.now == pytest.approx(1 / per_request, rel=0.05)


@pytest.mark.parametrize("utilisation", [0.2, 0.5, 0.7])
def test_the_formula_agrees_with_the_simulation(utilisation: float) -> None:
    demand = Demand(STEPS, STEPS * PASS, STEPS * 0.02 + SCORING)
    rate = utilisation / demand.work
    made = simulation()
    made.send_at(random_times(rate, 400, seed=2), tokens=TOKENS, steps=STEPS)
    predicted = predict_latency(demand, rate)
    found = latencies(made)
    mean = sum(found) / len(found)
    _, p99 = percentiles(found)
    assert predicted.mean == pytest.approx(mean, rel=0.1)
    assert predicted.p99 == pytest.approx(p99, rel=0.2)

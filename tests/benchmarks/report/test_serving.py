"""Tables of the service, and what is to be reached, from small made-up results."""

import pytest

from benchmarks.report import serving
from benchmarks.report.goals import PROSE, SERVING, Goal, prose_goals, serving_goals
from benchmarks.results import ResultFile, Row
from benchmarks.rows import BesideOverload, BreakEven, Company, Footprint, Overload
from tests.benchmarks.report.made_up import answers, load, result_file

LOADS = [
    load(operation, run, "HTTP", concurrency, factor * run)
    for run in (1, 2, 3)
    for operation, concurrency, factor in (
        ("write", 1, 1),
        ("write", 32, 3),
        ("read alone", 4, 8),
        ("read beside writers", 4, 1),
        ("writers beside read", 32, 2),
    )
]


def served(*rows: Row) -> list[ResultFile]:
    return [result_file(*rows, name="serving/made-up")]


def rows(table: str) -> list[str]:
    return table.splitlines()[2:]


def test_loads_are_medians_over_the_runs() -> None:
    assert rows(serving.write_load(served(*LOADS))) == [
        "| 1 | HTTP | 2.0 | 250 | 500 | 3 |",
        "| 32 | HTTP | 6.0 | 83.33 | 167 | 3 |",
    ]
    assert serving.read_load(served(*LOADS)) == ""


def test_read_beside_writers_is_held_to_its_idle_latency_and_a_step() -> None:
    # In the runs (1, 2, 3): p99 alone 1/8, 1/16, 1/24, beside writers 1, 1/2, 1/3, a step 1/4.
    (row,) = rows(serving.mixed_load(served(*LOADS)))
    assert row == "| HTTP | 31.25 | 62.50 | 250 | 500 | 250 | 1.6 | 4 |"
    goals = serving_goals(served(*LOADS))
    assert "| READ p99 beside writers / (alone + a step), HTTP | 1.6 | ≤ 1.5 | no |" in goals
    assert "| WRITE/s, HTTP, 32 at once / 1 | 3 | ≥ 2 | yes |" in goals
    assert "| WRITE/s, in-process, 32 at once / 1 | not measured | ≥ 2 | no |" in goals


@pytest.mark.parametrize(
    ("cached", "reread", "against"),
    [(0.2, 0.6, "| 20 | 4 |"), (0.1, 0.05, "| never | never |"), (0.05, 9.0, "| never | 1 |")],
)
def test_queries_until_a_memory_pays_off(cached: float, reread: float, against: str) -> None:
    described: dict[str, float] = {
        "pairs": 4,
        "tokens": 29,
        "batch": 1,
        "steps": 5,
        "memory_bytes": 4096,
    }
    described |= {"cache_bytes": 9, "text_bytes": 29, "write": 2.1, "read": 0.1, "prefill": 0.1}
    row = BreakEven.model_validate(described | {"cached": cached, "reread": reread})
    assert rows(serving.break_even(served(row)))[0].endswith(against)


def test_memory_is_compared_once_it_is_warm() -> None:
    prints = [
        Footprint(requests=count, failed=0, bytes=size * 2**20)
        for count, size in ((10, 1), (1000, 100), (2000, 110))
    ]
    assert rows(serving.footprint(served(*prints))) == [
        "| 1,000 | 0 | 100.0 |",
        "| 2,000 | 0 | 110.0 |",
    ]
    assert "| memory after all requests / after 1,000 | 1.1 | ≤ 1.05 | no |" in serving_goals(
        served(*prints)
    )


def test_goodput_is_a_share_of_what_a_closed_loop_did_before_and_after() -> None:
    described = {"pairs": 16, "steps": 5, "service_cores": 1, "before": 15.0, "after": 5.0}
    described |= {"concurrency": 32, "offered": 50.0, "seconds": 60.0, "sent": 3000}
    described |= {"succeeded": 540, "refused": 2459}
    untimed = {"p50": None, "p99": None}
    floods = [
        Overload.model_validate(described | untimed | varied)
        for varied in (
            {"run": 1, "failed": 0, "unanswered": 1, "goodput": 8.0},
            {"run": 2, "failed": 1, "unanswered": 0, "goodput": 9.0, "offered": 70.0},
            {"run": 3, "failed": 0, "unanswered": 0, "goodput": 9.5},
        )
    ]
    goals = serving_goals(served(*floods))
    assert "| overload from another core, goodput / capacity | 0.9 | ≥ 0.9 | yes |" in goals
    assert "| overload, failed (5xx or another) | 1 | ≤ 0 | no |" in goals
    assert "| overload, unanswered | 1 | ≤ 0 | no |" in goals
    assert rows(serving.overload(served(*floods))) == [
        "| 1 | 10.0 | 50.0 | 9,000 | 1,620 | 7,377 | 1 | 1 | 9.0 |"
    ]


def test_another_client_and_another_program_have_tables() -> None:
    described = {"operation": "read", "alone": 0.02, "refused": 2, "failed": 0, "p99": 1.0}
    others = [
        BesideOverload.model_validate(described | varied)
        for varied in (
            {"run": 1, "sent": 9, "succeeded": 7, "p50": 0.1},
            {"run": 2, "sent": 4, "succeeded": 2, "p50": 0.5},
            {"run": 3, "sent": 8, "succeeded": 6, "p50": 0.6},
        )
    ]
    assert rows(serving.beside_overload(served(*others))) == [
        "| read | 21 | 15 | 6 | 0 | 500 | 1,000 | 20.00 |"
    ]
    together = [
        Company(run=run, waiting=waiting, device_threads=2, busy=busy, throughput=each, failed=0)
        for run, each in ((1, 10.0), (2, 20.0))
        for waiting in ("asleep", "20,000 rounds")
        for busy in (0, 1)
    ]
    assert rows(serving.company(served(*together))) == [
        "| 20,000 rounds | 2 | 15 | 15 |",
        "| asleep | 2 | 15 | 15 |",
    ]


def test_nothing_measured_is_nothing_shown() -> None:
    assert {show([]) for show in (*serving.TABLES, serving_goals)} == {""}
    assert prose_goals([], "prose") == ""


def test_goals_of_a_checkpoint_stand_beside_what_it_reached() -> None:
    both = [
        answers("sentences", "memory", 0.25, write_steps=5),
        answers("sentences", "memory", 0.9, write_steps=9),
        answers("sentences", "whole text", 0.5),
        answers("lists", "list ports, key alone", 1.0, write_steps=5, blob="int8"),
        answers("lists", "list prices, key alone", 0.96, write_steps=5, blob="int8"),
    ]
    goals = prose_goals([result_file(*both)], "tiny")
    assert "| Short SQuAD, exact match | 25.0 | ≥ 56.0 | no |  |\n" in goals
    assert "| Short SQuAD, memory / text | 50.0 |" in goals
    assert "| lists, keys asked plainly | 98.0 | ≥ 97.0 | yes |  |\n" in goals
    assert "| windows of 96 tokens, exact match | not measured | ≥ 50.0 | no |  |\n" in goals
    assert prose_goals([result_file(*both)], "other") == ""


def test_goals_of_served_memories_are_those_of_one_measurement() -> None:
    both = [
        answers("paragraphs-1", "memory", 0.5, write_steps=k, blob=blob, false_rejection_rate=rate)
        for k, blob, rate in ((8, "int8", 0.5), (5, "float32", 0.4), (5, "int8", 0.03))
    ]
    goals = prose_goals([result_file(*both)], "tiny")
    assert "| paragraphs, false rejection rate | 3.0 | ≤ 4.0 | yes |  |" in goals


@pytest.mark.parametrize("goal", [*PROSE, *SERVING], ids=lambda goal: goal.name)
def test_a_goal_is_reached_on_its_side_of_the_limit(goal: Goal) -> None:
    side = -1 if goal.at_most else 1
    assert goal.is_reached(goal.limit)
    assert goal.is_reached(goal.limit + side * 0.01)
    assert not goal.is_reached(goal.limit - side * 0.01)
    assert not goal.is_reached(float("nan"))

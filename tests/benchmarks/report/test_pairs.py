"""Tables about pairs, from small made-up results."""

import math

import pytest

from benchmarks.report import pairs
from benchmarks.report.tables import render
from benchmarks.rows import CurvePoint
from gradmem_core.errors import InputError
from tests.benchmarks.report.made_up import match, result_file

SEEDS = [
    result_file(match(8, 1, 0.5), match(8, 2, 0.8), match(8, "auto", 0.8), match(4, 2)),
    result_file(match(8, 2, 0.7), seed=2),
    result_file(match(8, 2, 0.9), seed=3),
]


def rows(table: str) -> list[str]:
    return table.splitlines()[2:]


def test_cells_stand_where_they_belong() -> None:
    result = result_file(
        match(8, 2, 0.5), match(4, 5), match(4, 2, 0.12345), match(8, "auto", 0.7, contexts=9)
    )
    assert pairs.exact_match([result]).splitlines() == [
        "| checkpoint | seed | stored as | pairs | contexts | K = 2 | K = 5 | auto |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `tiny` | 1 | none | 4 | 10 | 12.3 | 100.0 |  |",
        "| `tiny` | 1 | none | 8 | 9 / 10 | 50.0 |  | 70.0 (3.2) |",
    ]
    assert rows(pairs.exact_match([result], checkpoint="tiny"))[1] == "| 8 | 10 | 50.0 |  |"
    assert pairs.exact_match([result], checkpoint="other") == ""


def test_of_a_repeated_measurement_that_over_most_contexts_counts() -> None:
    twice = [result_file(match(8, 2, 0.6, contexts=99)), result_file(match(8, 2, 0.5))]
    assert rows(pairs.exact_match(twice))[0].endswith("| 99 | 60.0 |")


def test_ladder_takes_the_best_with_few_steps_and_with_any() -> None:
    result = result_file(match(8, 5, 0.9), match(8, 6, 0.95), match(8, 4, 0.9), match(4, "auto"))
    assert rows(pairs.ladder([result]))[:2] == [
        "| 4 | 100.0 | 100.0 | 100.0 |  |  | 100.0 | `tiny`, K = auto |",
        "| 8 | 99.7 | 100.0 | 100.0 | 90.0 | `tiny`, K = 4 | 95.0 | `tiny`, K = 6 |",
    ]


def test_baselines_are_means_over_seeds_beside_the_published() -> None:
    rmt = result_file(match(8, 1, 0.4, writer="rmt"), recipe="tiny-rmt", writer="rmt")
    found = rows(pairs.baselines([*SEEDS, rmt]))
    assert "| rmt | 1 | published |  |  |  | 100.0 | 100.0 | 45.5 | 44.3 | 19.3 | 12.9 |" in found
    assert "| gradmem | 2 | `tiny` | 3 | 1,000 | 100 | 100.0 | 80.0 |  |  |  |  |" in found
    assert "| rmt | 1 | `tiny-rmt` | 1 | 1,000 | 100 |  | 40.0 |  |  |  |  |" in found


def test_baselines_are_shown_at_the_best_steps_for_their_trained_size() -> None:
    result = result_file(match(16, 2, 0.9), match(16, 5, 0.8), match(32, 2, 0.1), match(32, 5, 0.5))
    assert rows(pairs.baselines([result]))[-1].endswith("| 90.0 | 10.0 |  |  |")


def test_write_steps_begin_at_the_trained_size() -> None:
    result = result_file(*(match(size, 2, 0.5) for size in (4, 8, 16, 32)), match(16, 7))
    assert rows(pairs.write_steps([result])) == [
        "| `tiny` | 1 | 16 | 10 | 50.0 |",
        "| `tiny` | 1 | 32 | 10 | 50.0 |",
    ]


def test_spread_over_training_seeds() -> None:
    assert rows(pairs.seeds(SEEDS)) == ["| gradmem | `tiny` | 2 | 3 | 80.0 | 70.0 | 90.0 |"]


def test_two_checkpoints_of_one_seed_are_not_averaged() -> None:
    other = result_file(match(8, 2), name="pairs/other")
    assert other.result.subject
    subject = other.result.subject.model_copy(update={"fingerprint": "another"})
    other = result_file(match(8, 2), name="pairs/other", subject=subject)
    with pytest.raises(InputError, match=r"pairs/made-up and pairs/other .* training seed"):
        render([result_file(match(8, 2)), other])


def test_ablations_stand_beside_their_base() -> None:
    option = result_file(match(8, 2, 0.6), match(8, 5, 0.6), recipe="tiny.adamw")
    without_base = result_file(match(8, 2), recipe="lost.adamw")
    assert rows(pairs.ablations([*SEEDS, option, without_base])) == [
        "| 8 | `tiny` | 50.0 | 80.0 |",
        "| 8 | `tiny.adamw` |  | 60.0 (-20.0) |",
    ]


def test_bits_of_each_blob_where_they_are_most() -> None:
    stored = 6 * 2 * math.log2(62)
    result = result_file(
        match(8, 2, 0.75, blob="float32"),
        match(4, 2, blob="float32"),
        match(8, 2, 0.25, blob="int8"),
    )
    first, second = rows(pairs.bits([result]))
    assert first == (
        f"| `tiny` | float32 | 8 | 2 | 75.0 | {stored:.1f} | 400 |"
        f" {stored / 100:.3f} | {stored / 400:.3f} |"
    )
    assert second.endswith(f"| 100 | {stored / 3 / 100:.3f} | {stored / 3 / 100:.3f} |")


def curve(*shares: float, seed: int = 1, task: str = "kv") -> list[CurvePoint]:
    return [
        CurvePoint(
            run=f"run-{seed}",
            task=task,
            step=10 * n,
            contexts=160 * n,
            seconds=60.0 * n,
            size=8,
            write_steps=2,
            exact_match=share,
        )
        for n, share in enumerate(shares, start=1)
    ]


def test_cost_is_that_of_the_first_evaluation_at_a_threshold() -> None:
    result = result_file(*curve(0.25, 0.95, 0.5, 0.97))
    assert rows(pairs.cost([result])) == [
        "| gradmem | `tiny` | 8 | 2 | 1 | 320 (2 min) | 320 (2 min) | > 640 (4 min) | 97.0 |",
    ]


def test_cost_is_the_median_over_seeds_of_pairs_alone() -> None:
    shares = {1: (0.6, 1), 2: (0.1, 0.6), 3: (0.1, 0.1)}
    files = [result_file(*curve(*some, seed=seed), seed=seed) for seed, some in shares.items()]
    files.append(result_file(*curve(1, task="records"), recipe="lists"))
    files.append(result_file(*curve(0.1), recipe="never"))
    (row,) = rows(pairs.cost(files, reached="0.5"))
    assert row.startswith("| gradmem | `tiny` | 8 | 2 | 3 | 320 (2 min) | > 320 (2 min) |")


def test_milestones_are_the_first_evaluations_as_good_or_the_best_ones() -> None:
    first = result_file(*curve(0.5, 0.99, 1.0))
    later = result_file(*curve(0.9, 0.98, 0.985, 1.0, seed=2), recipe="later")
    baseline = result_file(*curve(1.0, seed=3), recipe="tiny-rmt", writer="rmt")
    above = [point.model_copy(update={"size": 16}) for point in curve(0.5, 0.8, 0.7)]
    files = [later, baseline, first, result_file(*above, recipe="above")]
    assert rows(pairs.milestones(files)) == [
        "| 8 | 320 | 2 | 100.0 | `tiny` | 2 |",
        "| 16 | > 1,000 | > 1 | 80.0 | `above` | 2 |",
    ]
    assert pairs.milestones([baseline]) == ""

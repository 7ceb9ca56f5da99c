"""The page of results: tables and pictures from small made-up results, and the committed page."""

import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from benchmarks.measurement import save_result
from benchmarks.report import tables
from benchmarks.report.measured import curves, measured, step_times
from benchmarks.report.page import NOTHING, checkpoint_tables, report
from benchmarks.report.places import filled, load_all
from benchmarks.report.tables_records import by_kind, by_training, failures, records_tables
from benchmarks.report.tables_text import slopes
from benchmarks.training_results import Result, ResultFile, load_results
from gradmem_core.errors import InputError
from tests.training.made_up import accuracy, cell, curve, records, step_time, text
from training.cli import app

COST = "1,000 contexts, 1 min"
DOCS = Path(__file__).resolve().parents[2] / "docs"


def files(*results: Result) -> list[ResultFile]:
    return [ResultFile(f"{number}.json", result) for number, result in enumerate(results)]


EVERYTHING = files(
    accuracy(cell(8, 1, 0.5), cell(8, 2, 0.8), cell(8, "auto", 0.8), cell(4, 2, 1.0)),
    accuracy(cell(8, 2, 0.7), seed=2),
    accuracy(cell(8, 2, 0.9), seed=3),
    accuracy(cell(8, 2, 0.6), recipe="tiny.adamw"),
    accuracy(cell(8, 1, 0.4), recipe="tiny-rmt", writer="rmt"),
    accuracy(cell(8, 2, 0.75, blob="int8")),
    curve("tiny"),
    step_time(),
    records(),
    text(),
    accuracy(cell(4, 2, 0.5), recipe="stories", task="babi-1"),
    curve("lists", task="records"),
    curve("told", task="babi-1"),
)


def rows(table: tables.Table) -> list[str]:
    return table.markdown.splitlines()[2:]


def test_cells_stand_where_they_belong() -> None:
    result = accuracy(
        cell(8, 2, 0.5), cell(4, 5), cell(4, 2, 0.12345), cell(8, "auto", 0.7, contexts=9)
    )
    assert checkpoint_tables(files(result)).splitlines() == [
        "| pairs | contexts | K = 2 | K = 5 | auto |",
        "| --- | --- | --- | --- | --- |",
        "| 4 | 10 | 12.35 | 100.00 |  |",
        "| 8 | 9 / 10 | 50.00 |  | 70.00 (3.2) |",
    ]


def test_of_a_repeated_measurement_that_over_most_contexts_counts() -> None:
    twice = files(accuracy(cell(8, 2, 0.6, contexts=99)), accuracy(cell(8, 2, 0.5)))
    assert [one.percent for one in measured(twice)] == [60]


def test_ladder_takes_the_best_with_few_steps_and_with_any() -> None:
    result = accuracy(cell(8, 5, 0.9), cell(8, 6, 0.95), cell(8, 4, 0.9), cell(8, "auto", 0.92))
    assert rows(tables.ladder(measured(files(result)))) == [
        "| 8 | 99.7 | 100.0 | 100.0 | 90.00 | tiny, seed 1, K = 4 | 95.00 | tiny, seed 1, K = 6 |"
    ]


def test_baselines_are_means_over_seeds_beside_the_published() -> None:
    found = rows(tables.side_by_side(measured(EVERYTHING)))
    assert "| rmt | 1 | published |  |  | 100.0 | 100.0 | 45.5 | 44.3 | 19.3 | 12.9 |" in found
    assert f"| gradmem | 2 | `tiny`, 3 seeds | {COST} | 100 | 100.00 | 80.00 |  |  |  |  |" in found
    assert f"| rmt | 1 | `tiny-rmt`, 1 seed | {COST} | 100 |  | 40.00 |  |  |  |  |" in found
    assert not any("adamw" in row for row in found)


def test_spread_over_training_seeds() -> None:
    assert rows(tables.spread(measured(EVERYTHING))) == [
        "| `tiny` | gradmem | 2 | 1, 2, 3 | 80.00 | 70.00 | 90.00 |"
    ]


def test_two_checkpoints_of_one_seed_are_not_averaged() -> None:
    other = accuracy(cell(8, 2)).model_copy(update={"fingerprint": "another"})
    with pytest.raises(InputError, match=r"0\.json and 1\.json .*'tiny'.* seed 1"):
        report(files(accuracy(cell(8, 2)), other))


def test_automatic_stop_against_fixed_steps() -> None:
    assert rows(tables.automatic(measured(EVERYTHING))) == [
        "| tiny, seed 1 | 8 | 80.00 | 3.25 | 80.00 (K = 2) | 80.00 (K = 2) |"
    ]


def test_ablations_stand_beside_their_base() -> None:
    assert rows(tables.ablations(measured(EVERYTHING))) == [
        "| `tiny` | gradmem | 8 | 1, 2, 3 | 80.00 |",
        "| `tiny.adamw` | gradmem | 8 | 1 | 60.00 (-20.00) |",
    ]


def test_bits_of_each_blob() -> None:
    result = accuracy(
        cell(8, 2, 0.75, blob="float32"),
        cell(4, 2, 1.0, blob="float32"),
        cell(8, 2, 0.5, blob="float16"),
        cell(8, 2, 0.25, blob="int8"),
        cell(8, 2, 0.75),
    )
    stored = 6 * 2 * math.log2(62)
    first, second, third = rows(tables.bits(measured(files(result))))
    assert first == (
        f"| tiny, seed 1 | gradmem | float32 | 8 | 2 | 75.00 | {stored:.1f} | 100 |"
        f" {stored / 100:.3f} | 400 | {stored / 400:.3f} |"
    )
    assert second.endswith(f"| 200 | {stored * 2 / 3 / 200:.3f} |")
    assert third.endswith(f"| 100 | {stored / 3 / 100:.3f} |")


def test_cost_is_that_of_the_first_evaluation_at_a_threshold() -> None:
    assert rows(tables.cost(curves(files(curve("run", 0.25, 0.95, 0.5, 0.97))))) == [
        "| `run` | gradmem | 1 | 8 | 2 | 320 (2 min) | 320 (2 min) | > 640 (4 min) |",
    ]


def test_step_time_in_its_units() -> None:
    assert rows(tables.step_time(step_times(files(step_time()))))[1] == (
        "| fused | 8 | 2 | 1 | 15.00 | 1.50 | 1,024 |"
    )


def test_records_by_kind_of_document() -> None:
    of_records = files(records())
    assert rows(by_kind(of_records, "shape")) == [
        "| `tiny` | 8x10+10 | 5 | 10 | 80 | 10 | 150 | 97.50 | 1.25 | 95.00 | 98.70 |"
    ]
    assert rows(by_kind(of_records, "list"))[0].endswith("| 95.00 |  |")
    assert rows(failures(of_records)) == ["| `tiny` | ports | 5 | `ssh` | `22` | not in memory |"]
    assert records_tables(of_records).count("\n\n") == 3


def test_slopes_are_those_of_language_alone() -> None:
    told = rows(slopes(files(curve("told", task="babi-1"), curve("run"))))
    assert told == ["| `told` | gradmem | babi-1 | 2 | 1,000 | 1 | 2.000 | 0.250 |"]


def test_a_curve_of_records_is_no_curve_of_pairs() -> None:
    both = files(curve("run", 0.25, 0.95), curve("lists", 0.5, task="records"))
    assert [one.run for _, one in curves(both)] == ["run"]
    assert rows(by_training(files(records(), curve("tiny")))) == [
        "| `tiny` | 2 | 1,000 | 1 | 97.5 / 95.0 |"
    ]


def test_page_without_results_says_so_in_every_section() -> None:
    made = report([])
    assert made.page.count(NOTHING) == 16
    assert made.page.count("\n## ") == 1 + 16  # the first is filled by `benchmarks.report.places`
    assert "| --- |" not in made.page
    assert made.pictures == {}


def test_page_with_everything_has_every_picture_and_where_figures_come_from() -> None:
    made = report(EVERYTHING)
    assert NOTHING not in made.page
    assert sorted(made.pictures) == ["capacity.svg", "curves.svg", "step-time.svg", "steps.svg"]
    for name, picture in made.pictures.items():
        assert f"(pictures/{name})" in made.page
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"contexts trained on (thousands)" in made.pictures["curves.svg"]
    assert made.page.count("Abacus, 2 cores, 1 thread, torch 2.13.0") == 16
    assert "[0.json](results/0.json): `gradmem-train made-up`, commit c0ffee" in made.page
    assert "training seeds 1, 2, 3; 10 contexts of 2 queries" in made.page


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    assert report(EVERYTHING) == report(EVERYTHING)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.svg").write_text("<svg/>")
    report(EVERYTHING).save(tmp_path / "RESULTS.md")
    assert not (tmp_path / "pictures" / "old.svg").exists()
    assert (tmp_path / "RESULTS.md").read_text() == report(EVERYTHING).page


def test_committed_page_is_that_of_the_committed_results() -> None:
    made = report(load_results(DOCS / "results"))
    page = filled(made.page, load_all())
    assert (DOCS / "RESULTS.md").read_text() == page, (
        "run: gradmem-train report, benchmarks.report.places"
    )
    committed = {path.name: path.read_bytes() for path in (DOCS / "pictures").glob("*.svg")}
    assert committed == made.pictures, "run: gradmem-train report"


def test_command_prints_tables_of_files_and_makes_the_page(tmp_path: Path) -> None:
    for file in EVERYTHING:
        save_result(tmp_path / "results" / file.name, file.result)
    first = str(tmp_path / "results" / "0.json")
    printed = CliRunner().invoke(app, ["report", first])
    assert printed.stdout.startswith("| pairs | contexts | K = 1 | K = 2 | auto |\n")
    page = tmp_path / "RESULTS.md"
    made = ["report", "--results", str(tmp_path / "results"), "--output", str(page)]
    assert CliRunner().invoke(app, made).exit_code == 0
    assert page.read_text() == report(EVERYTHING).page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "none.json"], "none.json cannot be read"),
        (["report", "--results", "nowhere"], "nowhere is no folder"),
        (["curve", "nowhere"], "nowhere holds no state.pt"),
        (["evaluate", "kv-16", "--pairs", "4,x"], "--pairs: 'x' is not a number"),
        (["evaluate", "kv-16", "--steps", "0"], "--steps: '0' is not a number from 1"),
        (["evaluate", "kv-16", "--blob", "int4"], "--blob: 'int4' is not one of float32"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1

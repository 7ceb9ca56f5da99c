"""Result files and what is read into them."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.accuracy.exact_match import Grid, measure
from benchmarks.curves import read_curve
from benchmarks.measurement import save_result
from benchmarks.training_results import Accuracy, Result, load_result, load_results
from gradmem_core.errors import InputError
from tests.training.conftest import TinyRecipe
from tests.training.made_up import accuracy, cell, curve, step_time
from training.loop.trainer import Trainer


@pytest.mark.parametrize("result", [accuracy(cell(8, "auto")), curve("run"), step_time()])
def test_files_round_trip(tmp_path: Path, result: Result) -> None:
    save_result(tmp_path / "new" / "a.json", result)
    assert load_result(tmp_path / "new" / "a.json").result == result
    assert [file.name for file in load_results(tmp_path / "new")] == ["a.json"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"seed": "7"}, "seed"),
        ({"date": "2026-11-23T08:21:13"}, "date"),
        ({"cells": []}, "cells"),
        ({"kind": "rumour"}, "kind"),
        ({"cells": [{"size": 4}]}, "cells.0.exact_match"),
        ({"cells": [cell(4, 1, 0.5).model_dump() | {"exact_match": 50}]}, "cells.0.exact_match"),
    ],
)
def test_malformed_files_are_refused_by_file_and_field(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(accuracy(cell(4, 1)).model_dump(mode="json") | change))
    with pytest.raises(InputError, match=rf"wrong\.json.*{field}"):
        load_results(tmp_path)


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        load_result(tmp_path / "none.json")
    with pytest.raises(InputError, match="none is no folder"):
        load_results(tmp_path / "none")
    (tmp_path / "cut.json").write_text('{"kind": ')
    with pytest.raises(InputError, match=r"cut\.json is no result file: Invalid JSON"):
        load_result(tmp_path / "cut.json")


def test_measuring_a_grid_gives_every_cell() -> None:
    grid = Grid(sizes=[2, 4], write_steps=[1, "auto"], blobs=[None, "int8"], contexts=2, queries=2)
    result = measure("kv-16", None, grid, seed=7, command="c")
    assert isinstance(result, Accuracy)
    assert [(c.size, c.write_steps, c.blob) for c in result.cells] == [
        (size, k, blob) for size in (2, 4) for k in (1, "auto") for blob in (None, "int8")
    ]
    # Eight vectors of 128; with int8 one scale of four bytes for each vector.
    kept = {(None, 1024, 4096), ("int8", 1024, 1024 + 32)}
    assert {(c.blob, c.state_floats, c.state_bytes) for c in result.cells} == kept
    assert result.training is not None
    assert result.training.recipe == "kv-16"


def test_curve_of_a_run_in_two_sessions(tmp_path: Path, tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe("evaluation.every_steps=2", "evaluation.contexts=2")
    with pytest.raises(InputError, match=r"holds no state\.pt"):
        read_curve(tmp_path, name="tiny", command="c", started=0.0)
    Trainer(recipe, tmp_path).fit(until_step=1, quiet=True)
    with pytest.raises(InputError, match="no evaluation yet"):
        read_curve(tmp_path, name="tiny", command="c", started=0.0)
    Trainer(recipe, tmp_path).fit(until_step=2, quiet=True)
    time.sleep(1)  # between sessions, so not the run's
    trainer = Trainer(recipe, tmp_path)
    trainer.fit(until_step=4, quiet=True)
    found = read_curve(tmp_path, name="tiny", command="c", started=0.0)
    assert [(point.step, point.contexts) for point in found.points] == [(2, 8), (4, 16)]
    assert [(point.size, point.write_steps) for point in found.points] == [(1, 1)] * 2
    assert found.training.contexts == 16
    assert found.seconds == pytest.approx(trainer.state.seconds)
    assert found.points[-1].seconds == pytest.approx(trainer.state.seconds, abs=0.8)
    assert len(found.target_losses) == 4  # a step each
    assert all(0 < loss < 10 for loss in found.target_losses)
    trainer.fit(until_step=11, quiet=True)
    longer = read_curve(tmp_path, name="tiny", command="c", started=0.0).target_losses
    assert len(longer) == 5
    assert longer[0] == pytest.approx(sum(found.target_losses[:2]) / 2, abs=1e-3)

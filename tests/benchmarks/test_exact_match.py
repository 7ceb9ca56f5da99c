"""Exact match over a grid."""

from pathlib import Path

import pytest

from benchmarks.rows import ExactMatch
from tests.benchmarks.commands import invoke, measure, measure_rows
from tests.pretrained import text_checkpoint, text_folder

SMALL = ("--contexts", 2, "--queries", 2)


def test_every_size_is_measured_with_every_k_and_blob() -> None:
    grid = ("--sizes", "2,4", "--steps", "1,auto", "--blob", "float32,int8")
    rows = measure_rows(ExactMatch, "exact-match", "kv-16", *grid, *SMALL)
    assert [(row.size, row.write_steps, row.blob) for row in rows] == [
        (size, k, blob) for size in (2, 4) for k in (1, "auto") for blob in ("float32", "int8")
    ]
    # Eight vectors of 128; with int8 one scale of four bytes for each vector.
    kept = {("float32", 1024, 4096), ("int8", 1024, 1024 + 32)}
    assert {(row.blob, row.state_floats, row.state_bytes) for row in rows} == kept


def test_by_default_the_checkpoint_decides() -> None:
    result = measure("exact-match", "kv-16", "--pairs", 2, *SMALL)
    assert [(row["task"], row["write_steps"], row["blob"]) for row in result.rows] == [
        ("kv", 5, None)
    ]
    assert result.subject is not None
    assert result.subject.training is not None
    assert result.subject.training.recipe == "kv-16"
    assert result.seed == 7


@pytest.mark.parametrize("baseline", [None, "full-context", "first-tokens", "no-context"])
def test_baselines_are_measured_on_the_same_backbone(tmp_path: Path, baseline: str | None) -> None:
    text_checkpoint(tmp_path)
    data = text_folder(tmp_path / "data")
    options = ("--task", "text", "--data", data, "--sizes", 6, "--contexts", 4, "--queries", 1)
    baselines = ("--baseline", baseline) if baseline else ()
    (row,) = measure_rows(ExactMatch, "exact-match", tmp_path / "text", *options, *baselines)
    assert row.writer == (baseline or "gradmem")
    assert row.f1 is not None
    assert (row.state_floats == 0) == (baseline == "no-context")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kv-16", "--blob", "int4"], "'int4' is not one of float32, float16, int8"),
        (["kv-16", "--steps", "1,some"], "'some' is not a number from 1"),
        (["kv-16", "--steps", "21"], "21 write steps"),
        (["kv-16", "--baseline", "half"], "half"),
        (["kv-16", "--task", "gossip"], "gossip"),
        (["nowhere"], "there is no checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str) -> None:
    refused = invoke("exact-match", *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr

"""Tables from result files."""

from pathlib import Path

import pytest

from gradmem_core.errors import InputError
from training.report import Result, load_results, table


def result(pairs: int, steps: int, exact_match: float, contexts: int = 10) -> Result:
    return Result(
        task="kv",
        pairs=pairs,
        contexts=contexts,
        queries=2,
        write_steps=steps,
        exact_match=exact_match,
        token_accuracy=1.0,
        checkpoint="tiny",
        fingerprint="f",
        seed=7,
        seconds=1.0,
    )


def test_cells_stand_where_they_belong() -> None:
    results = [result(8, 2, 0.5), result(4, 5, 1.0), result(4, 2, 0.12345), result(8, 2, 0.6, 99)]
    assert table(results).splitlines() == [
        "| pairs | contexts | K = 2 | K = 5 |",
        "| --- | --- | --- | --- |",
        "| 4 | 10 | 12.35 | 100.00 |",
        "| 8 | 99 | 60.00 |  |",
    ]


def test_files_round_trip_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = [result(8, 2, 0.5), result(4, 5, 1.0)]
    path.write_text("".join(f"{r.model_dump_json()}\n" for r in results))
    assert load_results(path) == results
    path.write_text(f'{results[0].model_dump_json()}\n{{"pairs": 1}}\n')
    with pytest.raises(InputError, match="line 2"):
        load_results(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_results(tmp_path / "none.jsonl")

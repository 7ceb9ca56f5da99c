"""Result files: what is written can be read, and what is malformed is refused."""

import json
from pathlib import Path

import pytest

from benchmarks.results import (
    Row,
    load_result,
    load_results,
    rows_of,
    running_command,
    save_result,
)
from benchmarks.rows import ExactMatch
from gradmem_core.errors import InputError
from tests.benchmarks.report.made_up import match, result_file

MADE_UP = result_file(match(8, "auto"), match(4, 2, 0.5, blob="int8"))


def test_files_round_trip(tmp_path: Path) -> None:
    save_result(tmp_path / "new" / "a.json", MADE_UP.result)
    (file,) = load_results(tmp_path / "new")
    assert (file.name, file.result) == ("a", MADE_UP.result)
    rows = [row for _, row in rows_of(ExactMatch, [file])]
    assert rows == [match(8, "auto"), match(4, 2, 0.5, blob="int8")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"seed": "7"}, "seed"),
        ({"date": "2026-11-23T08:21:13"}, "date"),
        ({"rows": []}, "rows"),
        ({"machine": {"cpu": "Abacus"}}, "machine.cores"),
    ],
)
def test_malformed_files_are_refused_by_file_and_field(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(MADE_UP.result.model_dump(mode="json") | change))
    with pytest.raises(InputError, match=rf"wrong\.json.*{field}"):
        load_results(tmp_path)


@pytest.mark.parametrize("change", [{"exact_match": 50}, {"size": None}, {"extra": 1}])
def test_malformed_rows_are_refused_by_file_row_and_field(change: dict[str, object]) -> None:
    rows = (match(4, 1).model_dump(), match(4, 1).model_dump() | change)
    file = result_file(name="pairs/wrong", rows=rows)
    with pytest.raises(InputError, match=rf"pairs/wrong: rows\.1: .*{next(iter(change))}"):
        list(rows_of(ExactMatch, [file]))


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        load_result(tmp_path / "none.json")
    with pytest.raises(InputError, match="none is not a folder"):
        load_results(tmp_path / "none")
    (tmp_path / "cut.json").write_text('{"command": ')
    with pytest.raises(InputError, match=r"cut\.json is not a result"):
        load_result(tmp_path / "cut.json")


def test_every_committed_row_is_one_that_its_measurement_knows() -> None:
    files = load_results()
    known = sum(1 for kind in Row.__subclasses__() for _ in rows_of(kind, files))
    assert known == sum(len(file.result.rows) for file in files)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            ["/venv/bin/gradmem-bench", "curve", "/runs/kv-8", "runs/x"],
            "gradmem-bench curve kv-8 runs/x",
        ),
        (["/src/benchmarks/__main__.py", "records"], "python -m benchmarks records"),
    ],
)
def test_a_command_names_no_folder_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, words: list[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", words)
    assert running_command() == command

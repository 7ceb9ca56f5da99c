"""Pages and pictures are those of the result files."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.report.command import PICTURES, ROOT, make_report, save_report
from benchmarks.report.index import measured_files
from benchmarks.report.markdown import percent, plain
from benchmarks.report.pictures import draw_all
from benchmarks.results import load_results, save_result
from gradmem_core.checkpoints.manifest import BUNDLED, find_checkpoint, read_manifest
from gradmem_core.errors import InputError
from tests.benchmarks.report.made_up import load, match, result_file

PAGE = "Before.\n\n<!-- table: {} -->\nold\n<!-- end -->\n\nAfter.\n"
FILES = [
    result_file(match(8, 2, 0.5), match(16, 2, 0.25)),
    result_file(load("write", 1, "HTTP", 1, 2.0), load("read", 1, "HTTP", 1, 20.0)),
]


def test_committed_pages_and_pictures_are_those_of_the_committed_results() -> None:
    made = make_report(ROOT, load_results())
    for path, content in made.items():
        assert (ROOT / path).read_bytes() == content, f"{path}: run gradmem-bench report"
    assert set((ROOT / PICTURES).glob("*.svg")) == {
        ROOT / path for path in made if path.suffix == ".svg"
    }
    pages = {"README.md", "docs/RESULTS.md", "docs/PERFORMANCE.md", "benchmarks/results/README.md"}
    assert pages <= {str(path) for path in made}


def test_every_result_file_is_in_the_index() -> None:
    index = (ROOT / "benchmarks" / "results" / "README.md").read_text()
    for file in load_results():
        assert f"({file.name}.json)" in index
        assert not file.result.commit.endswith("-dirty")
        assert len(file.result.commit) == 40


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.iterdir()))
def test_results_named_like_a_bundled_checkpoint_are_its_own(name: str) -> None:
    subjects = [file.result.subject for file in load_results()]
    fingerprints = {s.fingerprint for s in subjects if s and s.checkpoint == name and s.fingerprint}
    assert fingerprints <= {read_manifest(find_checkpoint(name)).fingerprint}


def test_a_place_is_filled_with_its_table_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE.format("exact-match checkpoint=tiny"))
    made = make_report(tmp_path, FILES)[Path("README.md")].decode()
    table = (
        "| pairs | contexts | K = 2 |\n| --- | --- | --- |\n| 8 | 10 | 50.0 |\n| 16 | 10 | 25.0 |\n"
    )
    assert made == page.read_text().replace("old\n", table)
    page.write_text(made)
    assert make_report(tmp_path, FILES)[Path("README.md")].decode() == made
    assert make_report(tmp_path, [])[Path("README.md")].decode() == made.replace(table, "")


def test_a_place_for_a_table_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(PAGE.format("rumours"))
    with pytest.raises(InputError, match="no table is called 'rumours': use one of ablations"):
        make_report(tmp_path, FILES)


def test_saving_replaces_pages_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(PAGE.format("write-load"))
    (tmp_path / PICTURES).mkdir(parents=True)
    (tmp_path / PICTURES / "old.svg").write_text("<svg/>")
    save_report(tmp_path, FILES)
    assert "| 1 | HTTP | 2.0 |" in (tmp_path / "README.md").read_text()
    names = sorted(path.name for path in (tmp_path / PICTURES).iterdir())
    assert names == ["capacity.svg", "throughput.svg"]


def test_pictures_show_what_was_measured_and_are_the_same_each_time() -> None:
    drawn = draw_all(FILES)
    assert drawn == draw_all(FILES)
    for picture in drawn.values():
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"tiny, K" in drawn["capacity.svg"]
    assert b"requests a second" in drawn["throughput.svg"]
    assert draw_all([]) == {}


def test_the_index_names_no_folder_of_the_machine() -> None:
    command = (
        "gradmem-train evaluate runs/a/checkpoint --data ../shared/data/squad --output /tmp/a.json"
    )
    file = result_file(match(8, 2), command=command, notes=("left out",))
    row = measured_files([file], "pairs").splitlines()[2]
    assert row.startswith("| [made-up](pairs/made-up.json) | `tiny` | `gradmem-train evaluate")
    assert "evaluate runs/a/checkpoint --data squad` | c0ffeec0 | Abacus, 1 of 2 cores" in row
    assert row.endswith("| 1.0 | 2026-11-23 | left out |")
    assert measured_files([file], "speed") == ""


def test_the_index_gives_curves_the_minutes_of_their_training() -> None:
    curve = result_file(match(8, 2), name="curves/made-up", seconds=0.5)
    assert "| 1.0 |" in measured_files([curve], "curves")
    assert "| 0.0 |" in measured_files([result_file(match(8, 2), seconds=0.5)], "pairs")


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50.0"), (1.0, "100.0"), (0.9998, "99.98"), (0.9994, "99.9")]
)
def test_what_is_not_all_is_not_rounded_up_to_100(share: float, text: str) -> None:
    assert percent(share) == text


def test_numbers_are_written_plainly() -> None:
    assert [plain(value) for value in (1234, 1234.0, 1.2345, "auto")] == [
        "1,234",
        "1,234",
        "1.23",
        "auto",
    ]


def test_command_prints_the_tables_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(len(FILES))]
    for path, file in zip(paths, FILES, strict=True):
        save_result(path, file.result)
    printed = CliRunner().invoke(app, ["report", *map(str, paths)])
    assert printed.exit_code == 0
    assert printed.stdout.startswith("**Exact match**\n\n| checkpoint | seed |")
    assert "**Read load**" in printed.stdout


def test_a_file_that_cannot_be_read_is_one_line_and_status_2() -> None:
    result = CliRunner().invoke(app, ["report", "none.json"])
    assert result.exit_code == 2
    assert "none.json cannot be read" in result.stderr
    assert result.stderr.count("\n") == 1

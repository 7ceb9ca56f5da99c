"""`gradmem-bench serving` from its options to its result file."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks.command import make_command
from benchmarks.results import load_result, rows_of
from benchmarks.rows import BesideOverload, Company, Footprint, Load, Overload
from benchmarks.serving import company, growth, overload, throughput
from benchmarks.serving.command import measure_serving

app = typer.Typer(rich_markup_mode=None)
app.command()(make_command(measure_serving))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_service_is_started_and_loaded_on_every_target(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"PAIRS": 2, "DIFFERENT": 4, "WRITERS": (2,), "READERS": (2,), "BATCH": 2}
    for name, value in small.items():
        monkeypatch.setattr(throughput, name, value)
    for name in ("PAIRS", "DIFFERENT", "BATCH"):
        monkeypatch.setattr(overload, name, small[name])
    monkeypatch.setattr(growth, "WORKERS", 2)
    monkeypatch.setenv("GRADMEM_THREADS", "1")  # the machine that tests run on may be busy
    sections = ("--only", "write,read,overload,growth", "--overload-seconds", 2)
    options = ("--requests", 20, "--seconds", 0.1, "--runs", 2, "--output", tmp_path / "serving")
    done = run("--checkpoint", tiny_folder, *sections, *options)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.split() == ["write", "read", "overload", "growth"]
    assert "| HTTP" in done.stdout
    file = load_result(tmp_path / "serving.json")
    assert file.result.subject is not None
    assert file.result.subject.checkpoint == "tiny"

    loads = [row for _, row in rows_of(Load, [file])]
    writes = [row for row in loads if row.operation == "write"]
    assert [(row.run, row.via) for row in writes] == [
        (1, "HTTP"),
        (1, "in-process"),
        (1, "ready batches"),
        (2, "in-process"),
        (2, "HTTP"),
        (2, "ready batches"),
    ]
    reads = [row for row in loads if row.operation != "write"]
    beside = ["read alone", "read beside writers", "writers beside read"]
    assert [row.operation for row in reads] == ["read", "read", *beside, *beside] * 2
    assert all((row.gradient_step is None) == (row.operation == "read") for row in reads)
    assert {row.failed for row in loads} == {0}

    floods = [row for _, row in rows_of(Overload, [file])]
    assert [row.run for row in floods] == [1, 2]
    for flood in floods:
        assert (flood.failed, flood.unanswered) == (0, 0)
        assert flood.sent == flood.succeeded + flood.refused > 0
    others = [row for _, row in rows_of(BesideOverload, [file])]
    assert [(row.run, row.operation, row.refused, row.failed) for row in others] == [
        (run, operation, 0, 0) for run in (1, 2) for operation in ("write", "read")
    ]
    assert all(row.succeeded == row.sent > 0 for row in others)
    footprints = [row for _, row in rows_of(Footprint, [file])]
    assert [row.requests for row in footprints][:2] == [10, 20]
    assert all(row.bytes > 2**26 for row in footprints)


@pytest.mark.slow
def test_a_service_is_measured_alone_and_in_company(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(company, "WAITS", {"asleep": company.WAITS["asleep"]})
    monkeypatch.setattr(company, "PAIRS", 2)
    options = ("--seconds", 0.1, "--runs", 1, "--output", tmp_path / "company")
    done = run("--checkpoint", tiny_folder, "--only", "company", *options)
    assert done.exit_code == 0, done.stderr
    rows = [row for _, row in rows_of(Company, [load_result(tmp_path / "company.json")])]
    assert [(row.waiting, row.busy, row.failed) for row in rows] == [
        ("asleep", busy, 0) for _ in range(2) for busy in (0, 1)
    ]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--only", "write,reed"], 2, "'reed' is not one of write, read"),
        (["--checkpoint", "none"], 2, "error: there is no checkpoint 'none'"),
        (["--only", "growth", "--url", "http://127.0.0.1:1"], 1, "error: cannot reach"),
    ],
)
def test_what_cannot_be_measured_is_an_error(options: list[str], status: int, message: str) -> None:
    done = run(*options)
    assert (done.exit_code, done.stdout) == (status, "")
    assert message in " ".join(done.stderr.split())


def test_a_service_of_another_checkpoint_is_refused(base_url: str) -> None:
    done = run("--only", "growth", "--url", base_url)
    assert done.exit_code == 2
    assert "fingerprint is not that of kv-96" in done.stderr

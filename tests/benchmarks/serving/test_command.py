"""`gradmem-bench serving` from its options to its result file."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks.command import make_command
from benchmarks.results import load_result, rows_of
from benchmarks.rows import Load
from benchmarks.serving import throughput
from benchmarks.serving.command import measure_serving
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, save_checkpoint
from gradmem_core.model import MemoryModel

app = typer.Typer(rich_markup_mode=None)
app.command()(make_command(measure_serving))


@pytest.fixture(scope="module")
def wide_folder(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model than tiny that takes documents of 16 pairs."""
    folder = tmp_path_factory.mktemp("checkpoints") / "wide"
    backbone = Backbone.from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tiny.tokenizer),
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
        },
        seed=1,
    )
    config = tiny.model.config.model_copy(update={"memory_tokens": 1, "max_context_tokens": 120})
    model = MemoryModel(backbone, config, seed=1)
    save_checkpoint(
        folder, name="wide", model=model, tokenizer=tiny.tokenizer, task=tiny.task, card="# wide\n"
    )
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_measures_a_service_of_its_own(
    wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "WRITERS", (1, 32))
    sections = ("--only", "write,growth", "--requests", 20)
    options = ("--seconds", 0.2, "--runs", 1, "--output", tmp_path / "serving")
    done = run("--checkpoint", wide_folder, *sections, *options)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "write\ngrowth\n"
    result = load_result(tmp_path / "serving.json")
    assert result.result.subject is not None
    assert result.result.subject.checkpoint == "wide"
    loads = [row for _, row in rows_of(Load, [result])]
    assert len(loads) == 5
    assert {row.via for row in loads} == {"HTTP", "in-process", "ready batches"}
    assert {row["measurement"] for row in result.result.rows} == {"load", "footprint"}
    assert done.stdout.count("| HTTP") == 2


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


def test_a_service_of_another_checkpoint_is_refused(base_url: str, wide_folder: Path) -> None:
    done = run("--only", "growth", "--url", base_url, "--checkpoint", wide_folder)
    assert done.exit_code == 2
    assert "tiny of another fingerprint than wide" in done.stderr

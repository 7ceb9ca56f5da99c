"""The examples of docs/QUICKSTART.md; installing and starting are the README's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.pretrained import text_checkpoint
from tests.service.conftest import running
from tests.service.examples import read_examples, run_bash

INSTALL, SERVE, ASK, CURL = read_examples("QUICKSTART.md", "bash")
(PYTHON,) = read_examples("QUICKSTART.md", "python")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    settings = Settings(store_url=f"sqlite:///{tmp_path}/memories.db", threads=1)
    models = Models([text_checkpoint(tmp_path / "text")])
    with running(create_app(settings, models=models)) as base:
        yield base


def test_it_starts_the_service_as_the_readme_does() -> None:
    assert f"```bash\n{SERVE}```" in README
    export, setup = INSTALL.splitlines()
    assert export.removeprefix("export ") in " ".join(README.split())
    assert setup == "scripts/setup"


def test_the_commands_run(url: str, tmp_path: Path) -> None:
    # A checkpoint of random weights may have no answer, which is status 3.
    script = ASK.rstrip() + " || test $? = 3\n" + CURL
    printed = run_bash(script, url, tmp_path)
    assert printed.count('"memory_id"') == 1
    assert printed.count('"answers"') == 1


def test_the_program_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADMEM_URL", url)
    exec(compile(PYTHON, "docs/QUICKSTART.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1

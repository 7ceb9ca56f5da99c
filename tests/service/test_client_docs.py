"""The examples of docs/CLIENT.md, run in their order."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.pretrained import text_checkpoint
from tests.service.conftest import running

PAGE = (Path(__file__).parents[2] / "docs" / "CLIENT.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    settings = Settings(store_url=f"sqlite:///{tmp_path}/memories.db", threads=1)
    models = Models([text_checkpoint(tmp_path / "text")])
    with running(create_app(settings, models=models)) as base:
        yield base


def test_the_examples_run(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADMEM_URL", url)
    names: dict[str, object] = {}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"example {number} of docs/CLIENT.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "1 deleted" in printed
    assert "Gone: no memory has this id" in printed

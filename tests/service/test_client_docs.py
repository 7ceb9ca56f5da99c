"""The examples of docs/CLIENT.md, run in their order."""

import pytest

from tests.service.examples import read_examples
from tests.service.test_quickstart import url as url


def test_the_examples_run(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADMEM_URL", url)
    names: dict[str, object] = {}
    for number, example in enumerate(read_examples("CLIENT.md", "python")):
        exec(compile(example, f"example {number} of docs/CLIENT.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "1 deleted" in printed
    assert "Gone: no memory has this id" in printed

"""Options and fixtures of the core's tests."""

from pathlib import Path

import pytest

OWN_CASES = Path(__file__).parent / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        given = metafunc.config.getoption("golden")
        folders = [OWN_CASES, *([Path(given)] if given else [])]
        paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        gradmem = [path for path in paths if '"GradMemGPT"' in path.read_text()]
        metafunc.parametrize("golden_case", gradmem, ids=lambda path: path.stem)

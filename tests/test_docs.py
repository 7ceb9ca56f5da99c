"""The command-line reference is what the programs print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_command_line_reference_is_the_programs_help() -> None:
    environment = {"GRADMEM_URL": "http://elsewhere", "COLUMNS": "200", "FORCE_COLOR": "1"}
    page = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cli_reference.py"],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8") == page.stdout

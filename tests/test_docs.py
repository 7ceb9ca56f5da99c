"""The command-line reference is what the programs print, and links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^()\s]+)\)")
PAGES = [
    path.relative_to(ROOT)
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/*.md",
        "benchmarks/**/*.md",
        "gradmem_core/**/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
]


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


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    targets = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    paths = [target.partition("#")[0] for target in targets if "://" not in target]
    folder = (ROOT / page).parent
    assert [path for path in paths if path and not (folder / path).exists()] == []

"""The examples of a page, run against a service."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent
LOCAL = "localhost:8080"


def read_examples(page: str, language: str) -> list[str]:
    """Return the fenced examples of a page of docs/, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_bash(script: str, url: str, folder: Path) -> str:
    """Run an example in a folder against a service; return what it printed."""
    script = script.replace(LOCAL, url).replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"GRADMEM_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

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
    return _find_examples((DOCS / page).read_text(encoding="utf-8"), language)


def read_commands(page: str) -> dict[str, list[str]]:
    """Return the commands in the `sh` examples of a page of docs/, by the heading above them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    commands = {}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        lines = "".join(_find_examples(section, "sh")).replace("\\\n", " ")
        if found := [line.strip() for line in lines.splitlines() if line.strip()]:
            commands[section.partition("\n")[0]] = found
    return commands


def _find_examples(text: str, language: str) -> list[str]:
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

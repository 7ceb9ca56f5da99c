"""Generated references are what the programs say, examples are run, and links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import typer

import benchmarks.cli
import service.cli
import training.cli
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest
from service.settings import refuse_unknown_names

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^```(?:bash|sh|python|console)$", re.MULTILINE)
RUN_BY = {
    "README.md": "tests/test_readme.py",
    "docs/API.md": "tests/service/test_api_docs.py, tests/service/test_openai.py",
    "docs/CLIENT.md": "tests/service/test_client_docs.py",
    "docs/MCP.md": "tests/service/test_mcp.py",
    "docs/PRETRAINED.md": "tests/test_training_docs.py",
    "docs/QUICKSTART.md": "tests/service/test_quickstart.py",
    "docs/RECORDS.md": "tests/test_training_docs.py",
    "docs/SCALING.md": "tests/service/capacity/test_command.py",
    "docs/TRAINING.md": "tests/test_training_docs.py",
}
"Tests that run the examples of a page."
PROGRAMS = {
    "gradmem": service.cli.app,
    "gradmem-train": training.cli.app,
    "gradmem-bench": benchmarks.cli.app,
}
COMMAND = re.compile(
    r"(?:`|^ +)(?:\.venv/bin/)?(gradmem|gradmem-train|gradmem-bench) ([a-z][^`]*?)(?:`|(?<!\\)$)",
    re.MULTILINE,
)
OPTION = re.compile(r"--[a-z][a-z-]*")
SETTING = re.compile(r"\bGRADMEM_[A-Z_]*[A-Z]\b")
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
GUIDES = [
    page
    for page in PAGES
    if page.parts[0] != "benchmarks" and page.name not in ("CHANGELOG.md", "CLI.md", "ARCHIVE.md")
]
"Pages about the programs as they are, written by people."


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


def test_the_http_reference_is_the_openapi_document(capsys: pytest.CaptureFixture[str]) -> None:
    run_path(str(ROOT / "scripts" / "api_reference.py"), run_name="__main__")
    page = capsys.readouterr().out
    assert (ROOT / "docs" / "REFERENCE.md").read_text(encoding="utf-8") == page


def test_every_page_with_examples_names_the_test_that_runs_them() -> None:
    with_examples = {
        page.as_posix()
        for page in PAGES
        if FENCED.search((ROOT / page).read_text(encoding="utf-8"))
        and page.parts[0] not in ("gradmem_core", "benchmarks")
    }
    assert with_examples == RUN_BY.keys()
    tests = {test for named in RUN_BY.values() for test in named.split(", ")}
    assert [test for test in sorted(tests) if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize("page", GUIDES, ids=str)
def test_commands_options_and_settings_exist(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for program, line in COMMAND.findall(text):
        command: Any = typer.main.get_group(PROGRAMS[program])
        words = line.split()
        while isinstance(command, typer.core.TyperGroup):
            command = command.commands[words.pop(0).rstrip(",")]
        options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        assert set(OPTION.findall(" ".join(words))) <= options, line
    refuse_unknown_names(SETTING.findall(text))


def test_a_digest_is_rewritten_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    (program,) = re.findall(r'^    python -c "\n(.*?)"$', page, re.MULTILINE | re.DOTALL)
    folder = tmp_path / "kv-16"
    shutil.copytree(find_checkpoint("kv-16"), folder)
    exec(textwrap.dedent(program).replace("FOLDER", str(folder)), {})
    changed, before = load_checkpoint(folder), read_manifest(find_checkpoint("kv-16"))
    assert changed.model.config.max_answer_tokens == 16 != before.memory.max_answer_tokens
    assert changed.fingerprint == before.fingerprint


@pytest.mark.slow
def test_the_site_is_built_without_a_warning() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "site.py"], check=True)
    assert (ROOT / "build" / "site" / "docs" / "CONCEPTS" / "index.html").is_file()

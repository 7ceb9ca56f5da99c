"""The commands of `gradmem` on several files and memories, on terminals and through pipes."""

import json
import os
import pty
import select
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import Client, NotFound
from service.commands.terminal import print_table
from tests.service.test_cli import DOCUMENT, QUERIES, UNKNOWN_ID, Gradmem, assert_fails

OTHER = "!cd:9y!|"


@pytest.fixture
def gradmem(base_url: str) -> Gradmem:
    return Gradmem(base_url)


@pytest.fixture
def for_lists(lists_url: str) -> Gradmem:
    return Gradmem(lists_url)


def save(folder: Path, **documents: str) -> list[str]:
    for name, text in documents.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in documents]


def run_in_terminal(words: list[str], typed: str, url: str) -> tuple[int, str]:
    """Run `gradmem` in a terminal of its own; return its status and everything on the screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *words],
        env=os.environ | {"GRADMEM_URL": url, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    screen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            screen += os.read(ours, 4096)
        except OSError:  # the process has closed its side
            break
    os.close(ours)
    return process.wait(timeout=60), screen.decode()


def test_each_file_becomes_a_memory(gradmem: Gradmem, tmp_path: Path, base_url: str) -> None:
    files = save(tmp_path, a=DOCUMENT, b=OTHER)
    ids = gradmem.output("write", *files, "--name", "both").split()
    with Client(base_url) as client:
        tokens = [client.memory(memory_id).describe().tokens for memory_id in ids]
    assert tokens == [len(DOCUMENT), len(OTHER)]
    lines = gradmem.output("write", files[0], "-", "--json", stdin=OTHER.encode()).splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == tokens


def test_files_are_written_into_one_memory(for_lists: Gradmem, tmp_path: Path) -> None:
    files = save(tmp_path, a="a: 1", b="b: 2", c="c: 3")
    memory_id = for_lists.output("write", *files[:2], "--append").strip()
    assert for_lists.output("write", *files[2:], "--append-to", memory_id).strip() == memory_id
    assert len(json.loads(for_lists.output("show", memory_id, "--json"))["pages"]) == 3


def test_the_files_before_a_refused_one_are_written(gradmem: Gradmem, tmp_path: Path) -> None:
    files = save(tmp_path, good=DOCUMENT, bad="a" * 65)
    result = gradmem("write", *files)
    assert (result.exit_code, len(result.stdout.split())) == (2, 1)
    assert "65" in result.stderr


def test_the_memory_of_the_files_before_a_refused_one_is_named(
    for_lists: Gradmem, tmp_path: Path
) -> None:
    files = save(tmp_path, good="a: 1", bad="a: " + "b" * 1000)
    result = for_lists("write", *files, "--append")
    assert result.exit_code == 2
    assert len(json.loads(for_lists.output("show", result.stdout.strip(), "--json"))["pages"]) == 1


def test_a_page_is_replaced(for_lists: Gradmem) -> None:
    memory = for_lists.write(stdin=b"a: 1")
    page_id = memory.pages[0].page_id
    words = ("replace", memory.memory_id, page_id, "-", "--json")
    pages = json.loads(for_lists.output(*words, stdin=b"b: 2\nc: 3"))["pages"]
    assert [(page["page_id"], page["records"]) for page in pages] == [(page_id, 2)]


def test_questions_come_from_the_lines_of_standard_input(gradmem: Gradmem) -> None:
    memory_id = gradmem.write().memory_id
    stdin = "".join(f"{query}\n\n" for query in QUERIES).encode()
    answers = gradmem.output("read", memory_id, *QUERIES)
    assert gradmem.output("read", memory_id, "-", stdin=stdin) == answers
    assert gradmem.output("ask", memory_id, stdin=stdin) == answers
    assert gradmem.output("ask", memory_id, QUERIES[0]) == answers.splitlines(keepends=True)[0]
    (line,) = gradmem.output("ask", memory_id, QUERIES[0], "--json").splitlines()
    assert json.loads(line)["query"] == QUERIES[0]


def test_a_question_that_is_refused_or_not_answered_does_not_keep_the_next(
    gradmem: Gradmem,
) -> None:
    memory_id = gradmem.write().memory_id
    stdin = f"{'a' * 65}\n{QUERIES[0]}\n".encode()
    result = gradmem("ask", memory_id, stdin=stdin)
    assert (result.exit_code, len(result.stdout.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: ")
    for refused in ("a" * 65, ""):
        assert_fails(gradmem("ask", memory_id, refused), status=2, message="")
    unsure = gradmem("ask", memory_id, QUERIES[0], "--min-confidence", "1")
    assert (unsure.exit_code, unsure.stdout) == (3, "\n")
    assert unsure.stderr == f"not confident enough: {QUERIES[0]}\n"


@pytest.mark.slow
def test_a_terminal_shows_a_prompt_and_confidence(gradmem: Gradmem, base_url: str) -> None:
    memory_id = gradmem.write().memory_id
    status, screen = run_in_terminal(["ask", memory_id], f"{QUERIES[0]}\n\n", base_url)
    assert status == 0
    assert screen.count("> ") == 2
    assert "%)" in screen


@pytest.mark.slow
def test_a_terminal_shows_progress_and_asks_before_it_deletes(
    gradmem: Gradmem, base_url: str, tmp_path: Path
) -> None:
    files = save(tmp_path, a=DOCUMENT)
    words = ["write", *files, "--steps", "8", "--metadata", "in=terminal"]
    status, screen = run_in_terminal(words, "", base_url)
    assert status == 0
    assert "loss" in screen
    filtered = ["rm", "--metadata", "in=terminal"]
    assert "deleted 0 memories" in run_in_terminal(filtered, "n\n", base_url)[1]
    assert "deleted 1 memory" in run_in_terminal(filtered, "y\n", base_url)[1]
    assert gradmem.output("ls", "--ids", "--metadata", "in=terminal") == ""


def test_memories_are_deleted_by_ids_and_by_a_filter(gradmem: Gradmem, base_url: str) -> None:
    ids = [gradmem.write("--metadata", "kind=old").memory_id for _ in range(4)]
    assert gradmem.output("ls", "--ids", "--metadata", "kind=old").split() == ids[::-1]
    assert gradmem.output("rm", *ids[:2]) == ""
    assert_fails(
        gradmem("rm", *ids[:3]),
        status=2,
        message=f"no such memory, or it has expired: {ids[0]}, {ids[1]}",
    )
    with Client(base_url) as client, pytest.raises(NotFound):
        client.memory(ids[2]).describe()
    asked = gradmem("rm", "--metadata", "kind=old")
    assert_fails(asked, status=2, message="delete 1 memory for good; add --yes")
    assert gradmem.output("rm", "--metadata", "kind=old", "--yes") == "deleted 1 memory\n"


@pytest.mark.parametrize(
    "words", [[], [UNKNOWN_ID, "--name", "x"], ["--page", "x"], ["--page", "x", "--name", "y"]]
)
def test_rm_refuses_what_may_be_a_mistake(gradmem: Gradmem, words: list[str]) -> None:
    result = gradmem("rm", *words, "--yes")
    assert (result.exit_code, result.stdout) == (2, "")


def test_memories_are_listed_by_expiry(gradmem: Gradmem) -> None:
    soon = gradmem.write("--ttl", "60", "--name", "soon").memory_id
    assert gradmem.output("ls", "--ids", "--name", "soon", "--expires-before", "2100-01-01") == (
        f"{soon}\n"
    )
    assert gradmem.output("ls", "--ids", "--expires-before", "2000-01-01") == ""


def test_a_memory_is_patched(gradmem: Gradmem) -> None:
    memory_id = gradmem.write("--name", "old", "--metadata", "a=1", "--ttl", "60").memory_id
    words = ("--name", "new", "--metadata", "b=2", "--remove-metadata", "a", "--no-ttl", "--json")
    changed = json.loads(gradmem.output("patch", memory_id, *words))
    assert (changed["name"], changed["metadata"], changed["expires_at"]) == (
        "new",
        {"b": "2"},
        None,
    )
    assert gradmem.output("patch", memory_id, "--no-name") == ""
    assert json.loads(gradmem.output("show", memory_id, "--json"))["name"] is None
    for wrong in ([], ["--name", "x", "--no-name"], ["--ttl", "1", "--no-ttl"]):
        assert_fails(gradmem("patch", memory_id, *wrong), status=2, message="name one change")


def test_a_memory_is_exported_and_imported(gradmem: Gradmem, tmp_path: Path) -> None:
    memory_id, file = gradmem.write().memory_id, tmp_path / "memory"
    assert gradmem.output("export", memory_id, str(file)) == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    words = ("--name", "copy", "--metadata", "a=1", "--ttl", "60")
    other_id = gradmem.output("import", str(file), *words).strip()
    file.chmod(0o644)
    assert gradmem.output("export", memory_id, str(file)) == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = json.loads(gradmem.output("show", other_id, "--json"))
    assert (other["name"], other["metadata"]) == ("copy", {"a": "1"})
    assert gradmem.output("read", other_id, *QUERIES) == gradmem.output("read", memory_id, *QUERIES)
    gradmem.output("rm", other_id)
    assert gradmem.output("import", str(file), "--id", other_id).strip() == other_id
    exported = CliRunner(env={"GRADMEM_URL": gradmem.url}).invoke(app, ["export", memory_id, "-"])
    assert exported.stdout_bytes == file.read_bytes()
    before = gradmem.output("ls", "--ids", "--limit", "1000")
    assert_fails(gradmem("import", str(file), "--ttl", "0"), status=2, message="ttl_seconds")
    assert gradmem.output("ls", "--ids", "--limit", "1000") == before
    refused = gradmem("import", "-", stdin=b"no memory")
    assert_fails(refused, status=2, message="")
    assert_fails(gradmem("export", memory_id, "-", "--query", "a"), status=2, message="go with")


def test_an_export_to_a_pipe_leaves_its_mode(gradmem: Gradmem, tmp_path: Path) -> None:
    memory_id, pipe = gradmem.write().memory_id, tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(pipe.read_bytes)
        assert gradmem.output("export", memory_id, str(pipe)) == ""
        assert reading.result()
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644


def test_tables_are_aligned_as_a_terminal_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "X"), [("京都", "1"), ("ab", "2"), ("a\x1bb", "3")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME    X",
        "京都    1",
        "ab      2",
        "a\\x1bb  3",
    ]


def test_nothing_in_a_name_does_something_to_a_terminal(gradmem: Gradmem) -> None:
    memory_id = gradmem.write("--name", "a\x1b[2Jb").memory_id
    assert "name: a\\x1b[2Jb" in gradmem.output("show", memory_id).splitlines()


@pytest.mark.slow
def test_the_shell_completes_commands() -> None:
    environment = {
        "_GRADMEM_COMPLETE": "complete_bash",
        "COMP_WORDS": "gradmem re",
        "COMP_CWORD": "1",
    }
    result = subprocess.run(
        [sys.executable, "-m", "service"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["read", "replace", "rekey"]


def test_a_service_is_measured_and_left_as_it_was(gradmem: Gradmem, tmp_path: Path) -> None:
    (file,) = save(tmp_path, a=DOCUMENT)
    before = gradmem.output("ls", "--ids", "--limit", "1000")
    words = ("--seconds", "0.3", "--concurrency", "2", "--document", file, "--question", QUERIES[0])
    figures = json.loads(gradmem.output("bench", *words, "--json"))
    assert (figures["model"], figures["document_tokens"]) == ("tiny", len(DOCUMENT))
    for measured in (figures["write"], figures["read"]):
        assert measured["requests"] > 1
        assert measured["failed"] == 0
        assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    table = gradmem.output("bench", "--seconds", "0.1").splitlines()
    assert [line.split()[0] for line in table[2:]] == ["WRITE", "READ"]
    assert gradmem.output("ls", "--ids", "--limit", "1000") == before
    assert_fails(gradmem("bench", "--model", "nobody's"), status=2, message="tiny")
    too_long = gradmem("bench", "--seconds", "0.1", "--question", "a" * 65)
    assert_fails(too_long, status=2, message="at most 16")
    assert gradmem.output("ls", "--ids", "--limit", "1000") == before


def test_a_job_is_submitted_awaited_listed_and_forgotten(gradmem: Gradmem, tmp_path: Path) -> None:
    files = save(tmp_path, good=DOCUMENT, bad="a" * 65)
    job_id = gradmem.output("write", *files, "--job", "--steps", "1").strip()
    waited = gradmem("jobs", "wait", job_id)
    assert waited.exit_code == 2
    good, bad = waited.stdout.splitlines()[1:]
    assert gradmem.output("show", good.split()[1]).startswith("memory_id: ")
    assert bad.split()[:2] == ["2", "-"]
    assert "at most 64" in bad
    results = json.loads(gradmem.output("jobs", "results", job_id, "--json"))["results"]
    assert [list(result) for result in results] == [["memory"], ["problem"]]
    assert json.loads(gradmem.output("jobs", "show", job_id, "--json"))["failed"] == 1
    assert job_id in gradmem.output("jobs", "ls")
    assert gradmem.output("jobs", "cancel", job_id) == ""
    assert_fails(gradmem("jobs", "show", job_id), status=2, message="job")
    assert_fails(gradmem("write", files[0], "--job", "--append"), status=2, message="excludes")


def test_a_job_whose_document_the_service_failed_to_write_has_failed(
    gradmem: Gradmem, base_url: str
) -> None:
    with Client(base_url) as client:
        job = client.submit([DOCUMENT, "a" * 65], timeout=1e-6)
    waited = gradmem("jobs", "wait", job.job_id)
    assert (waited.exit_code, len(waited.stdout.splitlines())) == (1, 3)

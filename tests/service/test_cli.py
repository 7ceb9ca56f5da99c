"""The commands of `gradmem` against a running service, and their failures."""

import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmarks.serving.process import await_service
from gradmem_core.checkpoints.manifest import list_bundled
from service.cli import app
from service.client import Client
from service.schemas import MemoryInfo
from tests.service.conftest import save_tiny

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"
QUERIES = ["?!aB:", "?!kk:", "?!0z:"]
UNKNOWN_ID = "0" * 32
NOBODY = "http://127.0.0.1:1"
GRADMEM = Path(sys.executable).with_name("gradmem")


class Gradmem:
    """The command line, pointed at a service."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner(env={"GRADMEM_URL": self.url}).invoke(app, arguments, input=stdin)

    def output(self, *arguments: str, stdin: bytes = b"") -> str:
        result = self(*arguments, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    def write(self, *arguments: str, stdin: bytes = DOCUMENT.encode()) -> MemoryInfo:
        output = self.output("write", "-", "--json", *arguments, stdin=stdin)
        return MemoryInfo.model_validate_json(output)


@pytest.fixture
def gradmem(base_url: str) -> Gradmem:
    return Gradmem(base_url)


@pytest.fixture
def memory_id(gradmem: Gradmem) -> str:
    return gradmem.write().memory_id


def serve(checkpoint: Path, *options: str, **environment: str) -> Result:
    """Start a service that is expected to refuse."""
    environment = {"GRADMEM_CHECKPOINTS": str(checkpoint), "GRADMEM_PORT": "0"} | environment
    return CliRunner(env=environment).invoke(app, ["serve", *options])


def assert_fails(result: Result, *, status: int, message: str) -> None:
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_write_prints_the_id_and_nothing_else(gradmem: Gradmem, tmp_path: Path) -> None:
    file = tmp_path / "document.txt"
    file.write_text(DOCUMENT)
    output = gradmem.output("write", str(file))
    assert len(output) == 33
    assert gradmem.output("show", output.strip()).startswith(f"memory_id: {output}")


def test_options_of_write_reach_the_service(gradmem: Gradmem) -> None:
    options = ["--model", "tiny", "--steps", "3", "--ttl", "60"]
    memory = gradmem.write(*options, "--metadata", "a=b=c", "--metadata", "empty=")
    assert (memory.model, memory.write_steps) == ("tiny", 3)
    assert memory.metadata == {"a": "b=c", "empty": ""}
    assert memory.expires_at is not None
    assert (memory.expires_at - memory.created_at).total_seconds() == pytest.approx(60)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_newline_at_the_end_is_dropped(gradmem: Gradmem, end: bytes) -> None:
    assert gradmem.write(stdin=DOCUMENT.encode() + end).tokens == len(DOCUMENT)


@pytest.mark.parametrize("end", [b"\n\n", b"\r", b"\n "])
def test_only_one_newline_is_dropped(gradmem: Gradmem, end: bytes) -> None:
    result = gradmem("write", "-", stdin=DOCUMENT.encode() + end)
    assert_fails(result, status=2, message=f"{len(DOCUMENT)}")


def test_read_prints_one_answer_per_line(gradmem: Gradmem, memory_id: str, base_url: str) -> None:
    with Client(base_url) as client:
        answers = client.memory(memory_id).ask_many(QUERIES)
    output = gradmem.output("read", memory_id, *QUERIES)
    assert output == "".join(f"{answer.answer}\n" for answer in answers)
    whole = json.loads(gradmem.output("read", "--json", memory_id, *QUERIES))
    assert whole == {
        "answers": [answer.model_dump() for answer in answers],
        "tokens": sum(answer.tokens for answer in answers),
    }


def test_options_of_read_reach_the_service(gradmem: Gradmem, memory_id: str) -> None:
    def drawn(seed: int) -> str:
        options = ["--temperature", "5", "--top-p", "0.9", "--seed", str(seed)]
        return gradmem.output("read", memory_id, QUERIES[0], *options)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 1
    short = gradmem.output("read", memory_id, QUERIES[0], "--max-new-tokens", "1", "--json")
    assert json.loads(short)["answers"][0]["tokens"] <= 1


def test_show_prints_one_field_per_line_or_json(gradmem: Gradmem, memory_id: str) -> None:
    memory = MemoryInfo.model_validate_json(gradmem.output("show", memory_id, "--json"))
    assert memory.memory_id == memory_id
    lines = gradmem.output("show", memory_id).splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(MemoryInfo.model_fields)
    assert "model: tiny" in lines
    assert "expires_at: null" in lines


def test_a_deleted_memory_is_gone(gradmem: Gradmem, memory_id: str) -> None:
    assert gradmem.output("rm", memory_id) == ""
    for command in (["show", memory_id], ["rm", memory_id], ["read", memory_id, "?!aB:"]):
        assert_fails(gradmem(*command), status=2, message="memory")


def test_the_url_option_overrides_the_environment(base_url: str, memory_id: str) -> None:
    assert memory_id in Gradmem(NOBODY).output("show", memory_id, "--url", base_url)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    "command", [["write", "-"], ["read", UNKNOWN_ID, "?"], ["show", "i"], ["rm", "i"]]
)
def test_an_unreachable_service_is_told(command: list[str]) -> None:
    result = Gradmem(NOBODY)(*command, stdin=DOCUMENT.encode())
    assert_fails(result, status=1, message=f"{NOBODY}: start it with `gradmem serve`")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["write", "-", "--steps", "0"], "steps"),
        (["write", "-", "--model", "nobody's"], "tiny"),
        (["write", "-", "--ttl", "-5"], "ttl_seconds"),
        (["write", "-", "--metadata", "alone"], "KEY=VALUE"),
        (["write", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["write", "/"], "cannot read /: Is a directory"),
        (["read", "../models", "?!aB:"], "memory_id"),
        (["show", "../models"], "Not Found"),
    ],
)
def test_a_refused_command_reports_the_reason(
    gradmem: Gradmem, command: list[str], message: str
) -> None:
    assert_fails(gradmem(*command, stdin=DOCUMENT.encode()), status=2, message=message)


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--steps", "many"], "neither a number nor auto"), (["--metadata", "alone"], "KEY=VALUE")],
)
def test_options_are_checked_before_the_document_is_read(
    gradmem: Gradmem, option: list[str], message: str
) -> None:
    result = gradmem("write", "/no/such/file", *option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "/no/such/file" not in result.stderr


def test_a_document_that_is_not_utf_8_is_refused(gradmem: Gradmem, tmp_path: Path) -> None:
    file = tmp_path / "latin"
    file.write_bytes("!aB:é".encode("latin-1"))
    assert_fails(gradmem("write", str(file)), status=2, message=f"{file} is not UTF-8 at byte 4")
    assert_fails(gradmem("write", "-", stdin=b"\xff"), status=2, message="- is not UTF-8")


@pytest.mark.parametrize("command", [["write"], ["read", UNKNOWN_ID], ["no-such"], ["--no-such"]])
def test_wrong_usage_is_status_2(gradmem: Gradmem, command: list[str]) -> None:
    result = gradmem(*command)
    assert (result.exit_code, result.stdout) == (2, "")


def test_version(gradmem: Gradmem) -> None:
    assert gradmem.output("--version") == "gradmem 0.1.0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "port: "),
        (["--checkpoint", "/no/such/checkpoint"], "/no/such/checkpoint"),
        (["--store-url", "ftp://user:password@host"], "sqlite"),
    ],
)
def test_serve_refuses_wrong_settings(tiny_folder: Path, options: list[str], message: str) -> None:
    result = serve(tiny_folder, *options)
    assert_fails(result, status=2, message=message)
    assert "password" not in result.stderr


def test_serve_tries_a_checkpoint_before_it_listens(tmp_path: Path) -> None:
    divergent = save_tiny(tmp_path / "divergent", seed=1, weight_scale=1e30)
    message = "the checkpoint tiny fails its self-test: "
    assert_fails(serve(divergent), status=2, message=message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GRADMEM_CHECKPOINT", "did you mean GRADMEM_CHECKPOINTS?"),
        ("GRADMEM_STORE", "did you mean GRADMEM_STORE_URL?"),
        ("gradmem_timeout", "did you mean GRADMEM_MAX_TIMEOUT_SECONDS?"),
        ("GRADMEM_XYZZY", "unset it"),
    ],
)
def test_unknown_settings_are_refused_with_the_nearest_known_one(
    tiny_folder: Path, name: str, message: str
) -> None:
    for result in (
        serve(tiny_folder, **{name: "sEcReT"}),
        CliRunner(env={name: "sEcReT"}).invoke(app, ["show", UNKNOWN_ID, "--url", NOBODY]),
    ):
        assert_fails(result, status=2, message=f"unknown setting {name}: {message}")
        assert "sEcReT" not in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADMEM_THREADS", "100000"),
        ("GRADMEM_MAX_TIMEOUT_SECONDS", "inf"),
    ],
)
def test_settings_beyond_what_the_machine_can_do_are_refused(
    tiny_folder: Path, name: str, value: str
) -> None:
    field = name.removeprefix("GRADMEM_").lower()
    assert_fails(serve(tiny_folder, **{name: value}), status=2, message=f"setting {field}: ")


def test_a_taken_port_is_reported_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = serve(tiny_folder, "--port", port, "--store-url", f"sqlite:///{tmp_path}/m.db")
    assert_fails(result, status=1, message=f"cannot listen on 127.0.0.1:{port}: address already")


def test_a_port_taken_while_checkpoints_load_is_reported_too(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_it_free(_host: str, _port: int) -> None:
        return

    monkeypatch.setattr("service.server._try_address", find_it_free)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = serve(tiny_folder, "--port", port, "--store-url", f"sqlite:///{tmp_path}/m.db")
    assert_fails(result, status=1, message="could not start; the log says why")


def test_serve_reports_an_unavailable_store_in_one_line(tiny_folder: Path) -> None:
    result = serve(tiny_folder, "--store-url", "redis://127.0.0.1:1")
    assert_fails(result, status=1, message="Redis store cannot be reached")


@pytest.fixture
def served(tiny_folder: Path, tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`gradmem serve` as a process of its own, with options and environment mixed."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [GRADMEM, "serve", "--port", "0", "--checkpoint", str(tiny_folder)],
            env=os.environ
            | {
                "GRADMEM_PORT": "1",
                "GRADMEM_STORE_URL": f"sqlite:///{tmp_path}/memories.db",
                "GRADMEM_LOG_FORMAT": "json",
            },
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield await_service(process, seconds=120), process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_serve_runs_until_it_is_stopped(
    served: tuple[str, "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    url, process = served
    assert url.startswith("http://127.0.0.1:")
    with Client(url) as client:
        assert client.write(DOCUMENT).info.model == "tiny"
    assert (tmp_path / "memories.db").exists()
    process.terminate()
    assert process.communicate(timeout=30)[0] == ""  # nothing but the URL is printed
    assert process.returncode == 0
    log = (tmp_path / "log").read_text()
    assert ("running as root" in log) is (os.geteuid() == 0)
    routes = [json.loads(line).get("route") for line in log.splitlines()]
    assert "/write" in routes


def test_models_describes_each_checkpoint(gradmem: Gradmem, lists_url: str) -> None:
    assert gradmem.output("models").splitlines() == [
        "tiny: no purpose given",
        "  documents: plain text",
        '  example document: "!aB:7x!!kk:Q3!|"',
        "  example query: ?!kk:",
        "  example answer: Q3",
    ]
    cards = json.loads(Gradmem(lists_url).output("models", "--json"))["models"]
    assert [card["document_format"] for card in cards] == ["records", "text"]


@pytest.mark.usefixtures("short_pauses")
def test_bundled_models_are_listed_without_a_service() -> None:
    gradmem = Gradmem(NOBODY)
    output = gradmem.output("models", "--bundled")
    assert "\nprose: Any text, asked in words." in output
    assert "\nrecords: Lists of `key: value` lines" in output
    cards = json.loads(gradmem.output("models", "--bundled", "--json"))["models"]
    assert [card["name"] for card in cards] == list_bundled()
    assert all(card["purpose"] for card in cards)
    assert_fails(gradmem("models"), status=1, message="cannot reach the service")


# Lists of records


def test_pages_are_appended_and_deleted(lists_url: str) -> None:
    gradmem = Gradmem(lists_url)
    memory = gradmem.write(stdin=b"a: 1\nb: 2")
    whole = gradmem.write("--append-to", memory.memory_id, stdin=b"c: 3")
    assert [page.records for page in whole.pages] == [2, 1]
    assert gradmem.output("write", "-", "--append-to", memory.memory_id, stdin=b"d: 4") == (
        memory.memory_id + "\n"
    )
    page_id = whole.pages[1].page_id
    assert gradmem.output("rm", memory.memory_id, "--page", page_id) == ""
    shown = MemoryInfo.model_validate_json(gradmem.output("show", memory.memory_id, "--json"))
    assert [page.records for page in shown.pages] == [2, 1]
    assert page_id not in {page.page_id for page in shown.pages}
    again = gradmem("rm", memory.memory_id, "--page", page_id)
    assert_fails(again, status=2, message="no page of this id")


def test_write_notes_duplicates_and_skipped_lines(lists_url: str) -> None:
    result = Gradmem(lists_url)("write", "-", stdin=b"Numbers\na: 1\nA: 2\n")
    assert result.exit_code == 0
    assert len(result.stdout.strip()) == 32
    assert result.stderr.splitlines() == [
        "note: 'A' occurs more than once; only its last value was kept",
        "note: line 1 is not a record and was skipped",
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["write", "-", "--append-to", UNKNOWN_ID], "no memory has this id"),
        (["write", "-", "--append-to", "x"], "append_to"),
        (["write", "-", "--append-to", UNKNOWN_ID, "--ttl", "60"], "excludes --model, --ttl"),
        (["write", "-", "--append-to", UNKNOWN_ID, "--metadata", "a=b"], "and --metadata"),
        (["rm", UNKNOWN_ID, "--page", "x"], "no memory has this id"),
    ],
)
def test_a_refused_change_reports_the_reason(
    lists_url: str, command: list[str], message: str
) -> None:
    assert_fails(Gradmem(lists_url)(*command, stdin=b"a: 1"), status=2, message=message)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"hello", "no record"),
        (b"x: 1\nsEcReT: 12345678", "line 2: the value has 8 tokens"),
        ("a: \u00e9".encode(), "at 3"),
    ],
)
def test_a_refused_list_reports_the_reason(lists_url: str, document: bytes, message: str) -> None:
    result = Gradmem(lists_url)("write", "-", stdin=document)
    assert_fails(result, status=2, message=message)
    assert "sEcReT" not in result.stderr


def test_purge_empties_the_log_of_a_sqlite_file_once_nobody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = logging.getLogger("gradmem.audit")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(audit, name, getattr(audit, name))
    path = tmp_path / "memories.db"
    options = ["purge", "--store-url", f"sqlite:///{path}"]
    assert CliRunner().invoke(app, options).exit_code == 0
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM memories").fetchone()
    writer = sqlite3.connect(path)
    writer.execute("INSERT INTO memories VALUES ('id', 1, 'expired')")
    writer.commit()
    assert_fails(CliRunner().invoke(app, options), status=1, message="another process reads")
    reader.close()
    writer.close()
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0
    assert json.loads(result.stderr)["act"] == "store.purge"

"""Start the service, write a list of records, ask for all it holds over HTTP, compare sizes, stop.

Exit status 0 only if enough of the answers were right. Run it by `scripts/demo`, which sets up
`.venv` first.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradmem_core.records import parse_records
from service.client import Client, ClientError
from service.schemas import MAX_QUERIES, AnswerInfo, MemoryInfo, ModelInfo

ROOT = Path(__file__).resolve().parents[1]
GRADMEM = Path(sys.executable).with_name("gradmem")
LIST = ROOT / "docs" / "lists" / "capitals.txt"
NOT_THERE = ["Atlantis", "El Dorado", "Narnia"]
ENOUGH = 0.95
"Share of right answers that the demonstration has to reach."
READY_SECONDS = 180
STOP_SECONDS = 20
FLOAT32_BYTES = 4


def main() -> int:
    """Run the demonstration; returns the exit status."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="gradmem-demo-") as folder:
            return _demonstrate(options.checkpoint, options.list.read_text(), Path(folder))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ClientError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "list", nargs="?", type=Path, default=LIST, help="a list of yours, `key: value` lines"
    )
    parser.add_argument("--checkpoint", default="records", help="a folder or a bundled name")
    return parser.parse_args()


def _demonstrate(checkpoint: str, document: str, folder: Path) -> int:
    print(f"Starting the service with {checkpoint} ...", flush=True)
    with _service(checkpoint, folder) as client:
        model = client.models()[0]
        memory = client.write(document)
        print(f"\nwrote     {memory.records} records, {len(memory.pages)} pages")
        print(f"memory    {memory.memory_id}\n")
        expected: dict[str, str | None] = {
            record.key: record.value for record in parse_records(document).records
        }
        expected |= {key: None for key in NOT_THERE if key.lower() not in expected}
        queries = list(expected)
        answers = [
            answer
            for start in range(0, len(queries), MAX_QUERIES)
            for answer in client.read_many(memory.memory_id, queries[start : start + MAX_QUERIES])
        ]
    right = _print_answers(answers, list(expected.values()))
    _print_sizes(document, memory, model)
    return 0 if right >= ENOUGH * len(expected) else 1


def _print_answers(answers: list[AnswerInfo], expected: list[str | None]) -> int:
    """Print a line for each query; returns how many answers were right."""
    print(f"{'question':24} {'answer':32} confidence")
    right = 0
    for answer, value in zip(answers, expected, strict=True):
        right += answer.answer == value
        said = answer.answer if answer.found else "(not in memory)"
        mark = "" if answer.answer == value else f"  wrong: {value or 'it is not there'}"
        print(f"{answer.query:24} {said:32} {answer.confidence:10.4f}{mark}")
    print(f"\n{right} of {len(expected)} answers are right")
    return right


def _print_sizes(document: str, memory: MemoryInfo, model: ModelInfo) -> None:
    text = len(document.encode())
    cache = memory.tokens * model.cache_bytes_per_token
    vectors = len(memory.pages) * model.memory_tokens * model.width * FLOAT32_BYTES
    print(f"\n{'bytes':>33} {'of text':>11} {'of KV cache':>11}")
    for name, size in (
        ("memory, as stored", memory.bytes),
        ("memory, vectors alone", vectors),
        ("text, UTF-8", text),
        ("KV cache it replaces", cache),
    ):
        print(f"{name:23} {size:9,d} {_ratio(size, text)} {_ratio(size, cache)}")


def _ratio(size: int, other: int) -> str:
    ratio = size / other
    return f"{ratio:10,.0f}x" if ratio >= 100 else f"{ratio:10.3g}x"


@contextmanager
def _service(checkpoint: str, folder: Path) -> Iterator[Client]:
    """A service of our own on a free port of loopback, ready; stopped in any case."""
    log = folder / "service.log"
    url = f"http://127.0.0.1:{_free_port()}"
    command = [str(GRADMEM), "serve", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    environment = os.environ | {"GRADMEM_STORE_URL": f"sqlite:///{folder / 'demo.db'}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--checkpoint", checkpoint],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        with Client(url) as client:
            _wait_until_ready(client, process, log)
            yield client
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not client.ready():
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with status {process.returncode}:{_tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service is not ready after {READY_SECONDS} s:{_tail(log)}")
        time.sleep(0.2)


def _tail(log: Path, lines: int = 20) -> str:
    return "".join(f"\n  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

"""Start the service, write a document, ask for all it holds over HTTP, compare sizes, stop.

Exit status 0 only if every answer was right. Run it by `scripts/demo`, which sets up `.venv` first.
"""

import argparse
import os
import random
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.client import Client, ClientError
from service.schemas import AnswerInfo, MemoryInfo, ModelInfo

GRADMEM = Path(sys.executable).with_name("gradmem")
SYMBOLS = string.ascii_letters + string.digits
PAIRS = 16
READY_SECONDS = 180
STOP_SECONDS = 20
FLOAT32_BYTES = 4


def main() -> int:
    """Run the demonstration; returns the exit status."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="gradmem-demo-") as folder:
            return _demonstrate(options.checkpoint, random.Random(options.seed), Path(folder))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ClientError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="kv-16", help="a folder or a bundled name")
    parser.add_argument("--seed", type=int, default=0, help="of the document")
    return parser.parse_args()


def _demonstrate(checkpoint: str, rng: random.Random, folder: Path) -> int:
    pairs = _draw_pairs(rng)
    document = "".join(f"!{key}:{value}!" for key, value in pairs.items()) + "|"
    print(f"Starting the service with {checkpoint} ...", flush=True)
    with _service(checkpoint, folder) as client:
        model = client.models()[0]
        memory = client.write(document)
        print(f"\nwrote     {document}\nmemory    {memory.memory_id}\n")
        answers = client.read_many(memory.memory_id, [f"?!{key}:" for key in pairs])
    right = _print_answers(answers, list(pairs.values()))
    _print_sizes(document, memory, model)
    return 0 if right == len(pairs) else 1


def _draw_pairs(rng: random.Random) -> dict[str, str]:
    words = [first + second for first in SYMBOLS for second in SYMBOLS]
    return dict(zip(rng.sample(words, PAIRS), rng.choices(words, k=PAIRS), strict=True))


def _print_answers(answers: list[AnswerInfo], expected: list[str]) -> int:
    """Print a line for each query; returns how many answers were right."""
    print("question  answer  expected  confidence")
    right = 0
    for answer, value in zip(answers, expected, strict=True):
        mark = "" if answer.answer == value else "  wrong"
        right += not mark
        print(f"{answer.query:9} {answer.answer:7} {value:9} {answer.confidence:10.4f}{mark}")
    print(f"\n{right} of {len(expected)} answers are right")
    return right


def _print_sizes(document: str, memory: MemoryInfo, model: ModelInfo) -> None:
    text = len(document.encode())
    cache = memory.tokens * model.cache_bytes_per_token
    vectors = model.memory_tokens * model.width * FLOAT32_BYTES
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

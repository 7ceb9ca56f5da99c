"""Start the service, write a text, ask it questions in words, compare sizes, stop.

Without arguments it is a text of our own with questions whose answers are known: the exit status is
0 only where some of them are right, which a broken service does not reach. With a file, that is
written and the questions after it are asked. Run it by `scripts/demo`, which sets up `.venv` first.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from service.client import Client, ClientError
from service.schemas import AnswerInfo, MemoryInfo, ModelInfo

ROOT = Path(__file__).resolve().parents[1]
GRADMEM = Path(sys.executable).with_name("gradmem")
TEXT = Path(__file__).with_name("demo.md")
ENOUGH = 3
"""Questions of the fifteen that have to be answered rightly. It is a smoke test: the bundled
checkpoint answers 6, and a model that does not have the memory none."""
READY_SECONDS = 900
"Longest that the service may take to start, the import of the model included."
STOP_SECONDS = 20
TIMEOUT_SECONDS = 600

Outcome: TypeAlias = Literal["right", "refused", "wrong"]
"`refused`: nothing was said where the text has an answer."


@dataclass(frozen=True)
class Question:
    """What is asked, and every answer that counts as right; none where the text does not say."""

    text: str
    right: tuple[str, ...] = ()


# Written together with the text, before anything was asked, and left alone since.
QUESTIONS = [
    Question("Who founded the paper mill at Velhagen?", ("Ilka Brandvold",)),
    Question("In what year was the mill founded?", ("1893", "in 1893")),
    Question("What did the watermark of the banknotes show?", ("a heron",)),
    Question("How many people did the mill employ in its best years?", ("212", "212 people")),
    Question(
        "What did Anselm Tvedt sell to pay for the loft?", ("his sailing boat", "sailing boat")
    ),
    Question("Who was the architect of the cooperative?", ("Nadia Okoro-Lund",)),
    Question("When does the tour start?", ("half past ten", "at half past ten")),
    Question(
        "How many kilowatts does the turbine give when the river is high?", ("63", "63 kilowatts")
    ),
    Question("Who holds the key of the library?", ("Sunniva Holt",)),
    Question("How many seats does the boiler house have?", ("85", "85 seats")),
    Question("On which floor is the gallery?", ("2", "floor 2", "second", "second floor")),
    Question("Who holds the key of the workshop?", ("Ulla Brekke",)),
    Question("Who repairs bicycles?", ("Zoë Büsching",)),
    Question("What is the job of Günther Strömqvist?", ("chimney sweep",)),
    Question("What is the telephone number of Tischlerei Lüders?", ("5528",)),
    Question("How deep is the Orsa at Velhagen?"),
    Question("What was the name of Ilka Brandvold's husband?"),
    Question("Who holds the key of the cellar?"),
]


def main() -> int:
    """Run the demonstration; returns the exit status."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="gradmem-demo-") as folder:
            return _demonstrate(options, Path(folder))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ClientError, RuntimeError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=TEXT, help="a text of yours, UTF-8")
    parser.add_argument("questions", nargs="*", help="what to ask of it, in words")
    parser.add_argument("--checkpoint", default="prose", help="a folder or a bundled name")
    options = parser.parse_args()
    if options.file != TEXT and not options.questions:
        parser.error(f'ask it something: scripts/demo {options.file} "Who ...?" "When ...?"')
    return options


def _demonstrate(options: argparse.Namespace, folder: Path) -> int:
    text = options.file.read_text(encoding="utf-8")
    own = bool(options.questions)
    asked = options.questions or [question.text for question in QUESTIONS]
    print(f"Starting the service with the checkpoint {options.checkpoint} ...", flush=True)
    with _service(options.checkpoint, folder) as client:
        print(f"Writing {options.file} ...", flush=True)
        memory = client.write(text)
        print(f"Asking {len(asked)} questions; the service no longer has the text ...", flush=True)
        answers = client.read_many(memory.memory_id, asked)
        model = client.models()[0]
    outcomes = [] if own else list(map(_outcome, QUESTIONS, answers))
    _print_answers(answers, outcomes)
    _print_read_back(memory)
    _print_sizes(text, memory, model)
    return 0 if own or _outcomes_of(outcomes, stated=True).count("right") >= ENOUGH else 1


def _outcome(question: Question, answer: AnswerInfo) -> Outcome:
    """Compare an answer with those that are right."""
    if answer.answer is None:
        return "refused" if question.right else "right"
    return "right" if _plain(answer.answer) in map(_plain, question.right) else "wrong"


def _plain(text: str) -> str:
    """A text without case, punctuation and articles, as SQuAD's evaluation compares."""
    words = re.sub(r"[^\w\s-]", "", text.lower()).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})


def _print_answers(answers: Sequence[AnswerInfo], outcomes: Sequence[Outcome]) -> None:
    """Print what was asked and said, and how much of it is right where that is known."""
    expected = ["; ".join(question.right[:1]) or "(not in the text)" for question in QUESTIONS]
    print()
    for number, answer in enumerate(answers):
        mark = f"{outcomes[number]:8}" if outcomes else ""
        print(f"{mark}{answer.query}")
        said = answer.answer if answer.answer is not None else f"({answer.reason})"
        wanted = f"   expected: {expected[number]}" if outcomes else ""
        print(f"{'':8}{said}   confidence {answer.confidence:.2f}{wanted}")
    if outcomes:
        _print_score(outcomes)


def _print_score(outcomes: Sequence[Outcome]) -> None:
    there = _outcomes_of(outcomes, stated=True)
    absent = _outcomes_of(outcomes, stated=False)
    print(
        f"\n{there.count('right')} of {len(there)} answers are right, {there.count('wrong')} wrong,"
        f" {there.count('refused')} refused; {absent.count('right')} of {len(absent)} questions"
        " that the text does not answer were refused."
    )


def _outcomes_of(outcomes: Sequence[Outcome], *, stated: bool) -> list[Outcome]:
    """Those of questions that the text answers, or of those that it does not."""
    pairs = zip(outcomes, QUESTIONS, strict=True)
    return [one for one, question in pairs if bool(question.right) == stated]


def _print_read_back(memory: MemoryInfo) -> None:
    """Say what the service itself found of the memory when it was written."""
    if memory.read_back is None:
        return
    lines = sorted(
        {line for page in memory.pages if page.read_back for line in page.read_back.weak_lines}
    )
    weak = f"; less than half of lines {', '.join(map(str, lines))}" if lines else ""
    print(f"Read back right after WRITE: {memory.read_back:.0%} of the words{weak}.")


def _print_sizes(text: str, memory: MemoryInfo, model: ModelInfo) -> None:
    """Print bytes of text, memory and KV cache, the cache in 16 bits as it is usually kept."""
    size = len(text.encode())
    cache = memory.tokens * model.cache_bytes_per_token // 2
    pages = f"{len(memory.pages)} page" + "s" * (len(memory.pages) > 1)
    print(f"\n{'bytes':>45} {'of text':>11} {'of KV cache':>11}")
    for name, one in (
        ("text, UTF-8", size),
        (f"memory, {memory.dtype}, {pages}, as stored", memory.bytes),
        ("KV cache of the pages, 16 bits", cache),
    ):
        print(f"{name:35} {one:9,d} {_ratio(one, size)} {_ratio(one, cache)}")
    print("The text is the smallest: a memory saves the prefill and the cache, not the disk.")


def _ratio(size: int, other: int) -> str:
    ratio = size / other
    return f"{ratio:10,.0f}x" if ratio >= 100 else f"{ratio:10.3g}x"


@contextmanager
def _service(checkpoint: str, folder: Path) -> Iterator[Client]:
    """A service of our own on a free port of loopback, ready; stopped in any case."""
    url = f"http://127.0.0.1:{_free_port()}"
    command = [str(GRADMEM), "serve", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    environment = os.environ | {
        "GRADMEM_STORE_URL": f"sqlite:///{folder / 'demo.db'}",
        "GRADMEM_LOG_LEVEL": "warning",
    }
    # Its standard error is ours: the first time a model is imported, with a progress bar.
    process = subprocess.Popen([*command, "--checkpoint", checkpoint], env=environment)
    try:
        with Client(url, timeout_seconds=TIMEOUT_SECONDS) as client:
            _wait_until_ready(client, process)
            yield client
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not client.ready():
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service is not ready after {READY_SECONDS} s")
        time.sleep(0.2)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

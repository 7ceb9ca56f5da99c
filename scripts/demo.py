"""Start the service, write a text, ask it questions, compare sizes, stop.

Without arguments the text is scripts/demo.md, whose answers are known; the exit status is 0 only if
some of them are right, which a broken service does not achieve. Otherwise it takes a file and the
questions to ask about it. Run it with `scripts/demo`, which sets up `.venv` first.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.serving.process import await_service, stop_service
from gradmem_core.errors import DeviceError
from service.client import Client, ClientError
from service.schemas import AnswerInfo, MemoryInfo, ModelInfo

ROOT = Path(__file__).resolve().parents[1]
GRADMEM = Path(sys.executable).with_name("gradmem")
TEXT = Path(__file__).with_name("demo.md")
MIN_RIGHT = 3
"""Answers out of fifteen that must be right. This is a smoke test: the bundled checkpoint gets 6 of
them, and a model without the memory none."""
TIMEOUT_SECONDS = 600

Outcome: TypeAlias = Literal["right", "refused", "wrong"]
"`refused`: no answer, although the text has one."


@dataclass(frozen=True)
class Question:
    """A question and every answer that counts as right; none if the text has no answer."""

    text: str
    right: tuple[str, ...] = ()


# Written together with the text before the first of them was asked, and never changed since.
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
    """Run the demo and return the exit status."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="gradmem-demo-") as folder:
            return _demonstrate(options, Path(folder))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ClientError, DeviceError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=TEXT, help="your own text, UTF-8")
    parser.add_argument("questions", nargs="*", help="questions about it")
    parser.add_argument("--checkpoint", default="prose", help="a folder or a bundled name")
    options = parser.parse_args()
    if options.file != TEXT and not options.questions:
        parser.error(f'no question: scripts/demo {options.file} "Who ...?" "When ...?"')
    return options


def _demonstrate(options: argparse.Namespace, folder: Path) -> int:
    text = options.file.read_text(encoding="utf-8")
    questions = options.questions or [question.text for question in QUESTIONS]
    print(f"Starting the service with the checkpoint {options.checkpoint} ...", flush=True)
    with _service(options.checkpoint, folder) as client:
        print(f"Writing {options.file} ...", flush=True)
        memory = client.write(text)
        print(
            f"Asking {len(questions)} questions; the service no longer has the text ...", flush=True
        )
        answers = memory.ask_many(questions)
        model = client.models()[0]
    outcomes = [] if options.questions else list(map(_outcome, QUESTIONS, answers))
    _print_answers(answers, outcomes)
    _print_read_back(memory.info)
    _print_sizes(text, memory.info, model)
    right = _select(outcomes, answerable=True).count("right")
    return 0 if options.questions or right >= MIN_RIGHT else 1


def _outcome(question: Question, answer: AnswerInfo) -> Outcome:
    """Compare an answer with the right ones."""
    if answer.answer is None:
        return "refused" if question.right else "right"
    return "right" if _normalize(answer.answer) in map(_normalize, question.right) else "wrong"


def _normalize(text: str) -> str:
    """Drop case, punctuation and articles, as the evaluation of SQuAD does."""
    words = re.sub(r"[^\w\s-]", "", text.lower()).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})


def _print_answers(answers: Sequence[AnswerInfo], outcomes: Sequence[Outcome]) -> None:
    """Print every question with its answer, and the score if the right answers are known."""
    expected = ["; ".join(question.right[:1]) or "(not in the text)" for question in QUESTIONS]
    print()
    for number, answer in enumerate(answers):
        mark = f"{outcomes[number]:8}" if outcomes else ""
        print(f"{mark}{answer.query}")
        text = answer.answer if answer.answer is not None else f"({answer.reason})"
        comparison = f"   expected: {expected[number]}" if outcomes else ""
        print(f"{'':8}{text}   confidence {answer.confidence:.2f}{comparison}")
    if outcomes:
        _print_score(outcomes)


def _print_score(outcomes: Sequence[Outcome]) -> None:
    answerable = _select(outcomes, answerable=True)
    others = _select(outcomes, answerable=False)
    print(
        f"\n{answerable.count('right')} of {len(answerable)} answers are right,"
        f" {answerable.count('wrong')} wrong, {answerable.count('refused')} refused;"
        f" {others.count('right')} of {len(others)} questions that the text does not answer were"
        " refused."
    )


def _select(outcomes: Sequence[Outcome], *, answerable: bool) -> list[Outcome]:
    """Return the outcomes of the questions that the text answers, or of the others."""
    pairs = zip(outcomes, QUESTIONS, strict=True)
    return [outcome for outcome, question in pairs if bool(question.right) == answerable]


def _print_read_back(memory: MemoryInfo) -> None:
    """Print how much of the text the service read back when it wrote the memory."""
    if memory.read_back is None:
        return
    lines = sorted(
        {line for page in memory.pages if page.read_back for line in page.read_back.weak_lines}
    )
    weak = f"; less than half in lines {', '.join(map(str, lines))}" if lines else ""
    print(f"Read back right after WRITE: {memory.read_back:.0%} of the words{weak}.")


def _print_sizes(text: str, memory: MemoryInfo, model: ModelInfo) -> None:
    """Print the bytes of text, memory and KV cache, the cache in 16 bits as usual."""
    text_bytes = len(text.encode())
    cache = memory.tokens * model.cache_bytes_per_token // 2
    pages = f"{len(memory.pages)} page" + "s" * (len(memory.pages) > 1)
    print(f"\n{'bytes':>45} {'of text':>11} {'of KV cache':>11}")
    for name, size in (
        ("text, UTF-8", text_bytes),
        (f"memory, {memory.dtype}, {pages}, as stored", memory.bytes),
        ("KV cache of the pages, 16 bits", cache),
    ):
        print(f"{name:35} {size:9,d} {_ratio(size, text_bytes)} {_ratio(size, cache)}")
    print("The text is the smallest: a memory saves the prefill and the cache, not the disk.")


def _ratio(size: int, other: int) -> str:
    ratio = size / other
    return f"{ratio:10,.0f}x" if ratio >= 100 else f"{ratio:10.3g}x"


@contextmanager
def _service(checkpoint: str, folder: Path) -> Iterator[Client]:
    """Run a service on a free loopback port; it is ready on entry and stopped on exit."""
    command = [str(GRADMEM), "serve", "--host", "127.0.0.1", "--port", "0"]
    environment = os.environ | {
        "GRADMEM_STORE_URL": f"sqlite:///{folder / 'demo.db'}",
        "GRADMEM_LOG_LEVEL": "warning",
    }
    # It shares our standard error: the first start shows a progress bar while it imports a model.
    with subprocess.Popen(
        [*command, "--checkpoint", checkpoint], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            url = await_service(process)
            with Client(url, timeout_seconds=TIMEOUT_SECONDS) as client:
                yield client
        finally:
            stop_service(process)


if __name__ == "__main__":
    sys.exit(main())

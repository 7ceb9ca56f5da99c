"""`gradmem-bench phases`: what closed phases answer, and what of them stays in the context."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated

import pydantic_core
import torch
import typer
from torch import Tensor

from benchmarks.accuracy.asking import ask_memory, ask_vectors
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.replies import AskedText, GradedAnswer, Replies
from benchmarks.command import Measurement
from benchmarks.options import Bank, CheckpointName, Seed
from benchmarks.phases.summaries import Summarise, TfIdf, keep_lead
from benchmarks.phases.transcripts import AskedPhase, ask_phases, ask_records, read_phases
from benchmarks.results import subject_of
from benchmarks.rows import ClosedPhases
from gradmem_core.blob import count_tensor_bytes, quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import find_checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import InputError
from gradmem_core.texts.documents import prepare_document
from gradmem_core.tokenizer import Tokenizer
from service.client import handle_message
from service.mcp.server import create_server
from service.mcp.tools import MemoryAnswer, MemoryAnswers
from service.schemas import MemorySummary
from service.settings import Settings
from training.writers.files import load_training

SERVED: BlobDtype = Settings.model_fields["blob_dtype"].default
"The dtype that the service stores memories in."
MAX_PAGES: int = Settings.model_fields["max_pages"].default
"Most pages of a memory, as served by default."
COUNTED_BY = "prose"
"The checkpoint whose tokenizer counts tokens, whichever is measured."


class PhaseBench:
    """Closes phases in several ways and asks about them.

    Args:
        checkpoint: What writes the memories, and reads whatever can be read.
        phases: The phases' texts with their questions.
        bank: Folder that keeps memories.
        steps: Write steps (K).
    """

    def __init__(
        self, checkpoint: Checkpoint, phases: Sequence[AskedPhase], bank: Path, steps: int
    ) -> None:
        self._checkpoint, self._phases, self._steps = checkpoint, phases, steps
        self._bank = MemoryBank(checkpoint, bank)
        self._reads_texts = checkpoint.task.document_format == "text"
        self._tokenizer = Tokenizer.from_folder(find_checkpoint(COUNTED_BY))
        self._tf_idf = TfIdf(phase.text for phase in phases)

    def rows(self) -> Iterator[ClosedPhases]:
        """Yield a row for each way of closing the phases."""
        yield self._text_row("the whole text", lambda phase: phase.text)
        yield self._memory_row()
        for kind, summarise in (("first", keep_lead), ("best", self._tf_idf.keep_best)):
            yield self._text_row(
                f"its {kind} lines, as many bytes as the handle",
                partial(self._summarise_to_handle, summarise),
            )
            yield self._text_row(
                f"its {kind} lines, half of the tokens", partial(self._halve, summarise)
            )
        yield self._text_row("nothing", lambda _phase: "")

    def _summarise_to_handle(self, summarise: Summarise, phase: AskedPhase) -> str:
        return summarise(phase.text, count_bytes, count_bytes(_handle(phase)))

    def _halve(self, summarise: Summarise, phase: AskedPhase) -> str:
        return summarise(phase.text, self._count_tokens, self._count_tokens(phase.text) // 2)

    def _text_row(self, name: str, keep: Callable[[AskedPhase], str]) -> ClosedPhases:
        """Measure what texts answer that stay in the context."""
        texts = [keep(phase) for phase in self._phases]
        stated = [
            fact.line in text.splitlines()
            for text, phase in zip(texts, self._phases, strict=True)
            for fact in phase.facts
        ]
        read = zip(texts, self._phases, strict=True) if self._reads_texts else ()
        replies = [self._read(text, phase.asked) for text, phase in read]
        return self._row(
            name,
            kept=texts,
            stored_bytes=sum(map(count_bytes, texts)),
            replies=Replies.merge(replies) if replies else None,
            stated=fmean(stated),
        )

    def _memory_row(self) -> ClosedPhases:
        """Measure what memories answer whose handles stay in the context."""
        memories = [self._write(phase.text) for phase in self._phases]
        replies = Replies.merge(
            ask_memory(
                self._checkpoint,
                quantize(memory, SERVED),
                [phase.asked],
                min_confidence=self._checkpoint.min_confidence,
                normalised=self._reads_texts,
                max_tokens=self._checkpoint.model.config.max_answer_tokens,
            )
            for memory, phase in zip(memories, self._phases, strict=True)
        )
        answers = [*replies.present, *replies.absent]
        return self._row(
            "its memory",
            kept=[_handle(phase) for phase in self._phases],
            stored_bytes=sum(count_tensor_bytes(memory, SERVED) for memory in memories),
            question_tokens=fmean(self._count_tokens(_format_call(each)) for each in answers),
            replies=replies,
        )

    def _write(self, text: str) -> Tensor:
        """Write a text as the service does, `(p, m, d)`, but do not read it back."""
        pages = prepare_document(self._checkpoint, text, max_pages=MAX_PAGES).pages
        return self._bank.memories([page.ids for page in pages], [self._steps])[self._steps]

    def _read(self, text: str, asked: AskedText) -> Replies:
        """Ask the backbone with a text before the question; a line break stands for no text."""
        ids = self._checkpoint.tokenizer.encode(text or "\n")
        vectors = self._checkpoint.model.backbone.embed(torch.tensor([ids]))[0]  # (T, d)
        return ask_vectors(self._checkpoint, vectors, asked)

    def _row(
        self, name: str, *, kept: Sequence[str], replies: Replies | None, **fields: float
    ) -> ClosedPhases:
        figures = {} if replies is None else _figures(replies)
        described = {
            "kept": name,
            "phases": len(kept),
            "tokens": sum(self._count_tokens(phase.text) for phase in self._phases),
            "kept_tokens": sum(map(self._count_tokens, kept)),
            "questions": sum(len(phase.facts) for phase in self._phases),
        }
        return ClosedPhases.model_validate(described | fields | figures)

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


def measure_phases(
    data: Annotated[Path, typer.Option(help="JSON file of tau-bench's recorded runs.")],
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    count: Annotated[int, typer.Option(min=2, help="Maximum number of phases.")] = 10,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per phase.")] = 640,
    questions: Annotated[int, typer.Option(min=1, help="Maximum questions per phase.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Write steps (K).")] = 5,
    seed: Seed = 7,
) -> Measurement:
    """Close phases of agents' work, and ask about what their tools returned.

    A checkpoint for records gets what was looked up first, as a list of records.
    """
    loaded = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_folder(find_checkpoint(COUNTED_BY))
    short = (each for each in read_phases(data) if len(tokenizer.encode(each.text)) <= tokens)
    phases = list(islice(short, count))
    if len(phases) < 2:
        raise InputError(f"{data} has fewer than two phases of at most {tokens} tokens")
    ask = ask_records if loaded.task.document_format == "records" else ask_phases
    bench = PhaseBench(loaded, ask(phases, questions=questions, seed=seed), bank, steps)
    return Measurement(
        "questions",
        bench.rows(),
        subject_of(loaded, load_training(checkpoint)),
        notes=(_note(tokenizer),),
    )


def count_bytes(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text.encode())


def _handle(phase: AskedPhase) -> str:
    """Return what stays in the context when a phase is closed into a memory."""
    memory = MemorySummary(
        memory_id=hashlib.sha256(phase.text.encode()).hexdigest()[:32],
        name=None,
        model=COUNTED_BY,
        created_at=datetime.now(UTC),
        expires_at=None,
        metadata={},
    )
    return handle_message(memory)["content"]


def _format_call(graded: GradedAnswer) -> str:
    """Return a call of ask_memory with one question, and its result, as an agent has them."""
    found = not graded.rejected
    answer = MemoryAnswer(
        question=graded.question.query,
        found=found,
        answer=graded.text if found else None,
        reason=None if found else "below threshold" if graded.text else "not stated",
        confidence=graded.confidence,
    )
    call = {"memory_id": "0123456789abcdef" * 2, "questions": [graded.question.query]}
    result = pydantic_core.to_json(MemoryAnswers(answers=[answer]), indent=2)
    return f"ask_memory {json.dumps(call)}\n{result.decode()}"


def _figures(replies: Replies) -> dict[str, float | None]:
    return {
        "exact_match": replies.exact_match,
        "f1": replies.f1,
        "false_rejection_rate": replies.false_rejection_rate,
        "absent": len(replies.absent),
        "rejection_recall": replies.rejection_recall,
    }


def _note(tokenizer: Tokenizer) -> str:
    tools = asyncio.run(create_server("http://127.0.0.1").list_tools())
    described = [tool.model_dump(include={"name", "description", "input_schema"}) for tool in tools]
    size = len(tokenizer.encode(json.dumps(described)))
    return f"the definitions of the four tools take {size} tokens, once in a context"

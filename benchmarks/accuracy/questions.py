"""`gradmem-bench sentences`, `windows`, `paragraphs`, `lists` and `formats`: questions in words.

Each asks memories of texts; those of single pages stand beside baselines, what else READ could
have had of the text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.accuracy.asking import ask_memory, ask_vectors
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.lists import LISTS, list_groups
from benchmarks.accuracy.paragraphs import (
    Half,
    find_window,
    join_paragraphs,
    read_paragraphs,
    split_texts,
)
from benchmarks.accuracy.pasted import TEXTS, read_texts
from benchmarks.accuracy.records import Pages, Shapes
from benchmarks.accuracy.replies import AskedText, Replies
from benchmarks.command import Measurement
from benchmarks.options import Bank, CheckpointName, Seed, Steps, positive, separated
from benchmarks.results import subject_of
from benchmarks.rows import Questions
from gradmem_core.blob import count_tensor_bytes, quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import InputError
from training.tasks import Question
from training.tasks.squad import find_sentence
from training.writers.files import load_training

FILE = "valid.jsonl"
SERVED: BlobDtype = "int8"
"The dtype that the service stores memories in."
WORDINGS = {"key alone": "{key}", "in words": "What is the entry for {key}?"}
"Wordings that a list is asked for a key with."

Data = Annotated[Path, typer.Option(help="Folder with SQuAD's valid.jsonl.")]
Part = Annotated[Half, typer.Option(help="Half of the paragraphs to use.")]
Most = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of paragraphs; all by default.")
]
K = Annotated[int, typer.Option(min=1, help="Write steps (K).")]
PageTokens = Annotated[Sequence[int], separated(parse=positive, help="Maximum tokens per page.")]


class Section:
    """A measurement of questions: a checkpoint, its memories, and where the questions come from.

    Args:
        name: Name of the section.
        data: Folder or file of the texts, and which part of it.
        checkpoint: Folder, or name of a bundled checkpoint.
        bank: Folder that keeps memories.
    """

    def __init__(self, name: str, data: str, checkpoint: str, bank: Path) -> None:
        self._name, self._data, self._reference = name, data, checkpoint
        self.checkpoint: Checkpoint = load_checkpoint(checkpoint)
        self.bank = MemoryBank(self.checkpoint, bank)
        config = self.checkpoint.model.config
        self._page_tokens = config.page_tokens or config.max_context_tokens

    def measurement(self, rows: Iterable[Questions]) -> Measurement:
        """Name what is measured."""
        subject = subject_of(self.checkpoint, load_training(self._reference))
        return Measurement("questions", rows, subject)

    def memory(self, texts: Sequence[AskedText], page_tokens: int, steps: int) -> Tensor:
        """Write texts one after the other into one memory, `(p, m, d)`."""
        pages = split_texts(self.checkpoint.tokenizer, texts, page_tokens)
        return self.bank.memories([page.ids for page, _ in pages], [steps])[steps]

    def ask(self, texts: Sequence[AskedText], memory: Tensor, dtype: BlobDtype) -> Replies:
        """Ask a memory of texts as the service does, with the checkpoint's least confidence."""
        least = self.checkpoint.min_confidence
        return ask_memory(self.checkpoint, quantize(memory, dtype), texts, min_confidence=least)

    def serve(self, text: AskedText, steps: int) -> Replies:
        """Write a text as the service does, and ask its questions."""
        return self.ask([text], self.memory([text], self._page_tokens, steps), SERVED)

    def served_row(self, condition: str, replies: Iterable[Replies], steps: int) -> Questions:
        """Sum up the replies of texts that were written as the service does."""
        size = self._page_tokens
        return self.row(condition, replies, write_steps=steps, page_tokens=size, blob=SERVED)

    def row(self, condition: str, replies: Iterable[Replies], **fields: object) -> Questions:
        """Sum up the replies of texts under one condition."""
        merged = Replies.merge(replies)
        described = {
            "section": self._name,
            "data": self._data,
            "condition": condition,
            "texts": merged.texts,
            "pages": merged.pages / merged.texts,
            "questions": len(merged.present),
            "exact_match": merged.exact_match,
            "f1": merged.f1,
            "forced": merged.forced,
            "false_rejection_rate": merged.false_rejection_rate,
            "absent": len(merged.absent),
            "rejection_recall": merged.rejection_recall,
            "calibration_error": merged.calibration_error,
        }
        return Questions.model_validate(described | fields)


def measure_sentences(
    data: Data,
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Most = None,
    steps: Steps = (1, 2, 3, 5, 8, 12),
) -> Measurement:
    """Ask about single sentences (Short SQuAD), beside baselines."""
    section = Section("sentences", _source(data, half), checkpoint, bank)
    texts = read_paragraphs(data / FILE, half, count=count, context=find_sentence)
    limit = section.checkpoint.model.config.max_context_tokens
    return section.measurement(_page_rows(section, texts, limit, steps))


def measure_windows(
    data: Data,
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Most = None,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per window.")] = 96,
    steps: Steps = (5,),
) -> Measurement:
    """Ask about sentences among their neighbours, on one page, beside baselines."""
    section = Section(f"windows-{tokens}", _source(data, half), checkpoint, bank)
    context = partial(find_window, tokenizer=section.checkpoint.tokenizer, most=tokens)
    texts = read_paragraphs(data / FILE, half, count=count, context=context)
    return section.measurement(_page_rows(section, texts, tokens, steps))


def measure_paragraphs(
    data: Data,
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Most = None,
    page_tokens: PageTokens = (64,),
    steps: Steps = (5,),
    together: Annotated[int, typer.Option(min=1, help="Paragraphs per document.")] = 1,
) -> Measurement:
    """Ask about whole paragraphs, or documents of several.

    Questions about other paragraphs are asked, too.
    """
    section = Section(f"paragraphs-{together}", _source(data, half), checkpoint, bank)
    documents = join_paragraphs(read_paragraphs(data / FILE, half, count=count), together)
    if not documents:
        raise InputError(f"there are fewer than {together} paragraphs")
    dtypes: Sequence[BlobDtype] = ("float32", "float16", "int8") if together == 1 else (SERVED,)

    def rows() -> Iterator[Questions]:
        for size in page_tokens:
            for k in steps:
                memories = [section.memory(document, size, k) for document in documents]
                for dtype in dtypes:
                    yield section.row(
                        "memory",
                        (
                            section.ask(document, memory, dtype)
                            for document, memory in zip(documents, memories, strict=True)
                        ),
                        write_steps=k,
                        page_tokens=size,
                        blob=dtype,
                        bytes_per_page=count_tensor_bytes(memories[0][:1], dtype),
                    )

    return section.measurement(rows())


def measure_lists(
    lists: Annotated[
        Path,
        typer.Option(
            help="Folder of lists of `key: value` lines.", show_default="benchmarks/lists"
        ),
    ] = LISTS,
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    shapes: Shapes = (),
    pages: Pages = (),
    contexts: Annotated[
        int, typer.Option(min=1, help="Number of generated lists of each shape.")
    ] = 25,
    keys: Annotated[int, typer.Option(min=1, help="Keys to ask for in each list.")] = 8,
    steps: K = 5,
    seed: Seed = 7,
) -> Measurement:
    """Ask about lists as texts: real and generated ones.

    Each list is asked for keys, alone and in words, and for as many that it does not have.
    """
    section = Section("lists", lists.name, checkpoint, bank)
    groups = list_groups(shapes, pages, lists, contexts=contexts, seed=seed)
    return section.measurement(
        section.served_row(
            f"{group.kind} {group.name}, {name}",
            [section.serve(_reword(asked, wording, keys), steps) for asked in group.lists],
            steps,
        )
        for group in groups
        for name, wording in WORDINGS.items()
    )


def measure_formats(
    texts: Annotated[
        Path,
        typer.Option(help="Folder of texts with their questions.", show_default="benchmarks/texts"),
    ] = TEXTS,
    checkpoint: CheckpointName = "prose",
    bank: Bank = Path("bank"),
    steps: K = 5,
) -> Measurement:
    """Ask about texts as people paste them.

    Tables, configurations, logs, code, mail: see `benchmarks/texts`.
    """
    section = Section("formats", texts.name, checkpoint, bank)
    asked = read_texts(texts)

    def rows() -> Iterator[Questions]:
        replies = []
        for name, text in asked.items():
            replies.append(section.serve(text, steps))
            yield section.served_row(name, replies[-1:], steps)
        yield section.served_row("all", replies, steps)

    return section.measurement(rows())


def _source(data: Path, half: Half) -> str:
    """Name a half of the paragraphs in a result file."""
    return f"{data.name}/{FILE}, the half for {half}"


def _page_rows(
    section: Section, texts: Sequence[AskedText], limit: int, steps: Sequence[int]
) -> Iterator[Questions]:
    """Measure texts of one page each, beside baselines; those of more tokens are left out."""
    encoded = [(section.checkpoint.tokenizer.encode(text.text), text) for text in texts]
    pages = [(ids, text) for ids, text in encoded if len(ids) <= limit]
    if not pages:
        raise InputError(f"none of the texts has at most {limit} tokens")
    memories = section.bank.memories([ids for ids, _ in pages], steps)
    checkpoint, texts = section.checkpoint, [text for _, text in pages]

    def replies(vectors: Iterable[Tensor]) -> Iterator[Replies]:
        for text, prefix in zip(texts, vectors, strict=True):
            yield ask_vectors(checkpoint, prefix, text)

    for k in steps:
        prefixes = checkpoint.model.prefix(memories[k])  # (N, m, d)
        yield section.row("memory", replies(prefixes), write_steps=k)
    for name, embed in _baselines(checkpoint).items():
        yield section.row(name, replies(embed(ids) for ids, _ in pages))


def _baselines(checkpoint: Checkpoint) -> dict[str, Callable[[list[int]], Tensor]]:
    """Return what READ can have of a page's tokens in place of a memory, `(S, d)`."""
    backbone, size = checkpoint.model.backbone, checkpoint.model.config.memory_tokens

    def embedded(ids: list[int]) -> Tensor:
        return backbone.embed(torch.tensor([ids]))[0]  # (T, d)

    return {
        "whole text": embedded,
        f"its first {size} tokens": lambda ids: embedded(ids[:size]),
        f"its embeddings, mean-pooled to {size}": lambda ids: _pool(embedded(ids), size),
        "nothing": lambda ids: embedded(ids[:1]),
    }


def _pool(vectors: Tensor, size: int) -> Tensor:
    """Average neighbouring vectors `(T, d)` down to at most `(size, d)`."""
    if len(vectors) <= size:
        return vectors
    return F.adaptive_avg_pool1d(vectors.T[None], size)[0].T


def _reword(asked: AskedText, wording: str, keys: int) -> AskedText:
    """Ask a list for at most so many keys, spread over it, and for as many that it lacks."""
    every = -(-len(asked.present) // keys)

    def worded(questions: Sequence[Question]) -> tuple[Question, ...]:
        return tuple(
            replace(question, query=wording.format(key=question.query))
            for question in questions[::every]
        )

    return AskedText(asked.text, worded(asked.present), worded(asked.absent))

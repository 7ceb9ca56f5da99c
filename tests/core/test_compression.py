"""Pages of a document are written, read back, and split where they are weak."""

import asyncio
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gradmem_core.blob import quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.generation import answer_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import prepare_document
from gradmem_core.texts.paging import Page
from gradmem_core.writing.compression import (
    MemoryPage,
    Steps,
    TokenLosses,
    WrittenPage,
    compress,
)
from gradmem_core.writing.descent import write
from gradmem_core.writing.verification import make_probes
from tests.pretrained import text_checkpoint

NO_LOSSES = TokenLosses([], [])
"Compression does not look at them."
TEXT = "\n".join(f"Key number {word}: value {word}" for word in ("one", "two", "three", "four"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model that was trained on nothing."""
    return text_checkpoint(tmp_path_factory.mktemp("text"))


class Scripted:
    """A worker that knows the text, and recalls it from pages of at most `able` tokens."""

    def __init__(self, checkpoint: Checkpoint, able: int) -> None:
        self.checkpoint = checkpoint
        self.able = able
        self.pages: list[list[int]] = []

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Keep in each memory only how long its page is."""
        assert steps == 2
        self.pages += pages
        shape = self.checkpoint.model.initial_memory.shape
        return [
            WrittenPage(torch.full(shape, float(len(page))), [1.0], 1.0, NO_LOSSES)
            for page in pages
        ]

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Say the value of a key, or nonsense."""
        assert len(memory) == 1
        tokenizer = self.checkpoint.tokenizer
        answers = []
        for query, settings in zip(queries, sampling, strict=True):
            asked = tokenizer.decode(query)
            words = [word for word in ("one", "two", "three", "four") if f" {word}\n" in asked]
            right = float(memory.max()) <= self.able + 0.5
            tokens = tokenizer.encode(f" value {words[0]}" if right else " no idea")
            tokens = tokens[: settings.max_new_tokens]
            answers.append(Answer(tokens, [1.0] * len(tokens), 1.0, "stop"))
        return answers


class InProcess:
    """A worker that computes in the calling thread, as the core does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    async def write_pages(self, pages: Sequence[list[int]], steps: Steps) -> list[WrittenPage]:
        """Write pages one by one."""
        assert isinstance(steps, int)
        batches = [
            write(
                self.checkpoint.model,
                torch.tensor([page]),
                torch.tensor([len(page)]),
                steps,
                create_graph=False,
            )
            for page in pages
        ]
        return [
            WrittenPage(
                batch.memory[0], batch.losses[0].tolist(), float(batch.accuracy[0]), NO_LOSSES
            )
            for batch in batches
            if batch.accuracy is not None
        ]

    async def read_pages(
        self, memory: Tensor, queries: Sequence[list[int]], sampling: Sequence[Sampling]
    ) -> list[Answer]:
        """Answer queries."""
        return answer_queries(self.checkpoint, memory, queries, sampling)


def compress_text(checkpoint: Checkpoint, worker: Scripted, **changes: object) -> list[MemoryPage]:
    """Compress TEXT."""
    pages = prepare_document(checkpoint, TEXT, max_pages=8).pages
    options: dict[str, object] = {"dtype": "float32", "verify": True, "max_pages": 8, **changes}
    return asyncio.run(compress(worker, checkpoint, pages, 2, **options))  # type: ignore[arg-type]


def test_a_page_that_comes_back_is_kept(checkpoint: Checkpoint) -> None:
    worker = Scripted(checkpoint, able=1000)
    (page,) = compress_text(checkpoint, worker)
    assert page.page.text == TEXT
    assert page.read_back is not None
    assert page.read_back.share == 1
    assert page.read_back.weak_lines == ()
    assert len(worker.pages) == 1


def test_a_weak_page_is_split_and_its_lines_keep_their_numbers(checkpoint: Checkpoint) -> None:
    whole = len(checkpoint.tokenizer.encode(TEXT))
    pages = compress_text(checkpoint, Scripted(checkpoint, able=whole - 1))
    assert [page.page.lines for page in pages] == [(1, 2), (3, 4)]
    assert "\n".join(page.page.text for page in pages) == TEXT
    assert all(page.read_back and page.read_back.share == 1 for page in pages)


def test_halves_that_are_no_better_are_not_kept(checkpoint: Checkpoint) -> None:
    worker = Scripted(checkpoint, able=0)
    (page,) = compress_text(checkpoint, worker)
    assert len(worker.pages) == 3  # the page and its halves
    assert page.weak
    assert page.read_back is not None
    assert page.read_back.weak_lines == (1, 2, 3, 4)


def test_nothing_is_split_beyond_the_most_pages(checkpoint: Checkpoint) -> None:
    worker = Scripted(checkpoint, able=0)
    assert len(compress_text(checkpoint, worker, max_pages=1)) == 1
    assert len(worker.pages) == 1


def test_without_verifying_nothing_is_read(checkpoint: Checkpoint) -> None:
    (page,) = compress_text(checkpoint, Scripted(checkpoint, able=0), verify=False)
    assert page.read_back is None
    assert not page.weak


def test_in_process_writes_and_reads_as_the_core_does(checkpoint: Checkpoint) -> None:
    pages = [Page(checkpoint.tokenizer.encode(TEXT), text=TEXT, lines=(1, 2, 3, 4))]
    made = asyncio.run(
        compress(
            InProcess(checkpoint), checkpoint, pages, 2, dtype="int8", verify=True, max_pages=1
        )
    )
    ids = torch.tensor([pages[0].ids])
    alone = write(checkpoint.model, ids, torch.tensor([ids.shape[1]]), 2, create_graph=False)
    assert torch.equal(made[0].written.memory, alone.memory[0])
    assert made[0].written.losses == alone.losses[0].tolist()
    probes = make_probes(checkpoint, TEXT, lines=pages[0].lines)
    answers = answer_queries(
        checkpoint,
        quantize(alone.memory, "int8"),
        [probe.ids for probe in probes],
        [Sampling(probe.max_tokens) for probe in probes],
    )
    assert made[0].read_back is not None
    assert made[0].read_back.words == sum(len(probe.expected) for probe in probes)
    assert len(answers) == len(probes)


def test_a_weak_page_that_cannot_be_split_is_kept(checkpoint: Checkpoint) -> None:
    pages = prepare_document(checkpoint, "Key: " + "x" * 100, max_pages=8).pages
    made = asyncio.run(
        compress(
            InProcess(checkpoint), checkpoint, pages, 2, dtype="float32", verify=True, max_pages=8
        )
    )
    assert [page.page for page in made] == pages
    assert made[0].weak

"""What the scheduler asks of a device, and torch's answer to it.

Shapes: `B` pages that are written, `p` pages of a memory that is read, `T` tokens, `m` memory
vectors, `d` width.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import NonFiniteLossError
from gradmem_core.padding import pad_right
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import Prefix, prefill
from gradmem_core.reading.decoding import Decoding
from gradmem_core.writing.compression import WrittenPage
from gradmem_core.writing.descent import score_reconstruction, take_gradient_step
from gradmem_core.writing.stopping import AutomaticStop
from service.engine.work import PageId, ReadWork, TokenChosen, WriteWork

SMALL_MODEL = 2**24
"Parameters below which one CPU thread answers queries."


@dataclass(eq=False)
class Writing:
    """A page between two gradient steps."""

    work: WriteWork
    memory: Tensor | None = None
    "`(m, d)` on the device; None stands for M0."
    losses: list[float] = field(default_factory=list)
    "Before each step that was made."
    stop: AutomaticStop[WrittenPage] | None = None
    "What ends the steps of `auto`; None before the first."

    @property
    def checkpoint(self) -> Checkpoint:
        """What writes it."""
        return self.work.checkpoint


@dataclass(eq=False)
class Reading:
    """A request between two tokens."""

    work: ReadWork
    numbers: list[int] = field(default_factory=list)
    "Its queries' numbers in the decoding batch."
    answers: dict[int, Answer] = field(default_factory=dict)
    "What is finished, by the query's place."

    @property
    def checkpoint(self) -> Checkpoint:
        """What reads it."""
        return self.work.checkpoint

    @property
    def done(self) -> bool:
        """Whether every query is answered."""
        return len(self.answers) == len(self.work.queries)


WriteOutcome: TypeAlias = WrittenPage | NonFiniteLossError | None
"What a step made of a page; None where more steps follow."


class Device(Protocol):
    """Does one small piece of work at a time. All of a call's items are of one checkpoint.

    A call that raises has changed none of its items.
    """

    def write_step(self, writes: Sequence[Writing]) -> list[WriteOutcome]:
        """Make the next gradient step of each page."""

    def begin(self, reads: Sequence[Reading]) -> None:
        """Let requests join the decoding batch."""

    def read_step(self, reads: Sequence[Reading]) -> list[tuple[Reading, TokenChosen]]:
        """Choose the next token of every query in the batch, which `reads` are the requests of."""

    def drop(self, reads: Sequence[Reading]) -> None:
        """Take requests out of the decoding batch, as if they had not begun."""

    def read(self, reads: Sequence[Reading]) -> None:
        """Answer requests from their start to their end, apart from the decoding batch."""

    def forget(self, memory_id: str) -> None:
        """Keep nothing of a memory."""


class TorchDevice:
    """The real one.

    Args:
        prefix_bytes: Most bytes of prefilled memories that are kept for later requests.
    """

    def __init__(self, *, prefix_bytes: int) -> None:
        self._prefixes = PrefixCache(prefix_bytes)
        self._decoding: dict[str, Decoding] = {}

    def write_step(self, writes: Sequence[Writing]) -> list[WriteOutcome]:
        """Make the next gradient step of each page (see `Device`)."""
        model, pad_id = writes[0].checkpoint.model, writes[0].checkpoint.tokenizer.pad_id
        start = model.initial_memory.detach()
        contexts = [writing.work.context_ids for writing in writes]
        ids = pad_right(contexts, pad_id, device=start.device)  # (B, T)
        lengths = torch.tensor([len(context) for context in contexts], device=start.device)
        memory = torch.stack([start if w.memory is None else w.memory for w in writes])
        following, before = take_gradient_step(model, memory, ids, lengths)
        measured = [i for i, writing in enumerate(writes) if _is_measured(writing)]
        after = torch.full_like(before, torch.nan)
        accuracy = torch.zeros_like(before)
        if measured:
            rows = torch.tensor(measured, device=start.device)
            after[rows], accuracy[rows] = score_reconstruction(
                model, following[rows], ids[rows, : int(lengths[rows].max())], lengths[rows]
            )
        finite = before.isfinite() & following.isfinite().all(dim=(1, 2))
        steps = zip(
            before.tolist(), after.tolist(), accuracy.tolist(), finite.tolist(), strict=True
        )
        return [
            _moved(writing, following[row], *step)
            for row, (writing, step) in enumerate(zip(writes, steps, strict=True))
        ]

    def begin(self, reads: Sequence[Reading]) -> None:
        """Let requests join the decoding batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        fresh = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
        with _threads_of_reads(checkpoint):
            self._join(self._decoding.get(checkpoint.name, fresh), reads)
        self._decoding.setdefault(checkpoint.name, fresh)

    def read_step(self, reads: Sequence[Reading]) -> list[tuple[Reading, TokenChosen]]:
        """Choose the next token of every query in the batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        with _threads_of_reads(checkpoint):
            return _stepped(self._decoding[checkpoint.name], reads)

    def drop(self, reads: Sequence[Reading]) -> None:
        """Take requests out of the decoding batch (see `Device`)."""
        decoding = self._decoding.get(reads[0].checkpoint.name)
        if decoding is not None:
            decoding.drop({number for reading in reads for number in reading.numbers})
        for reading in reads:
            reading.numbers.clear()
            reading.answers.clear()

    def read(self, reads: Sequence[Reading]) -> None:
        """Answer requests apart from the decoding batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
        with _threads_of_reads(checkpoint):
            self._join(decoding, reads)
            while len(decoding):
                _stepped(decoding, reads)

    def forget(self, memory_id: str) -> None:
        """Keep nothing of a memory (see `Device`)."""
        self._prefixes.forget(memory_id)

    def _join(self, decoding: Decoding, reads: Sequence[Reading]) -> None:
        works = [one.work for one in reads]
        prefixes = zip(works, self._prefixes.of(reads), strict=True)
        numbers = iter(
            decoding.join(
                [pages for work, pages in prefixes for _ in work.queries],
                [query for work in works for query in work.queries],
                [sampling for work in works for sampling in work.sampling],
                [work.documents for work in works for _ in work.queries],
            )
        )
        for one in reads:
            one.numbers[:] = [next(numbers) for _ in one.work.queries]


class PrefixCache:
    """Prefilled memories, the least recently read given up first.

    Args:
        most_bytes: Most bytes that are kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[PageId, Prefix] = OrderedDict()
        self.bytes = 0

    def of(self, reads: Sequence[Reading]) -> list[list[Prefix]]:
        """The prefixes of each request's pages; those that are not kept are computed together."""
        wanted = [dict(zip(_keys(one.work), one.work.memory, strict=True)) for one in reads]
        pages = {key: memory for one in wanted for key, memory in one.items()}
        known = {key: self._kept[key] for key in pages if key in self._kept}
        missing = {key: memory for key, memory in pages.items() if key not in known}
        if missing:
            model = reads[0].checkpoint.model
            memory = torch.stack(list(missing.values()))  # (B, m, d)
            made = prefill(model, memory.to(model.initial_memory.device))
            known |= dict(zip(missing, made, strict=True))
        for reading, keys in zip(reads, wanted, strict=True):
            if reading.work.page_ids is not None:
                for key in keys:
                    self._keep(key, known[key])
        return [[known[key] for key in keys] for keys in wanted]

    def forget(self, memory_id: str) -> None:
        """Give up the prefixes of a memory's pages."""
        for page in [page for page in self._kept if page[0] == memory_id]:
            self._give_up(page)

    def _keep(self, page: PageId, prefix: Prefix) -> None:
        self._give_up(page)
        self._kept[page] = prefix
        self.bytes += prefix.bytes
        while self.bytes > self._most:
            self._give_up(next(iter(self._kept)))

    def _give_up(self, page: PageId) -> None:
        prefix = self._kept.pop(page, None)
        self.bytes -= prefix.bytes if prefix else 0


@contextmanager
def _threads_of_reads(checkpoint: Checkpoint) -> Iterator[None]:
    """Read from a small model with one thread.

    A token is little to compute: a second thread would mostly spin, on a core that the event loop
    wants, while READ keeps the device busy.
    """
    usual = torch.get_num_threads()
    if checkpoint.parameters < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _keys(work: ReadWork) -> list[PageId]:
    """What tells pages apart: their ids, or the work where there are none."""
    if work.page_ids is not None:
        return list(work.page_ids)
    return [(f"work {id(work)}", str(page)) for page in range(len(work.memory))]


def _is_measured(writing: Writing) -> bool:
    """Whether the loss after the next step is wanted, and not only before the one that follows."""
    steps = writing.work.steps
    return steps == "auto" or len(writing.losses) + 1 == steps


def _moved(
    writing: Writing, memory: Tensor, before: float, after: float, accuracy: float, finite: bool
) -> WriteOutcome:
    """Take a step over into a page.

    Args:
        writing: The page.
        memory: After the step, `(m, d)`.
        before: Its loss before the step.
        after: And after it, where it was measured.
        accuracy: Share of the tokens that are predicted after it.
        finite: Whether loss and memory are numbers.
    """
    if not finite:
        return NonFiniteLossError(
            "WRITE diverged: a loss or the memory is not finite; use fewer steps", samples=[0]
        )
    if not _is_measured(writing):
        writing.memory = memory
        writing.losses.append(before)
        return None
    made = WrittenPage(memory.cpu(), [*writing.losses, before, after], accuracy)
    if writing.work.steps != "auto":
        return made
    if writing.stop is None:
        most = writing.checkpoint.model.config.max_write_steps
        writing.stop = AutomaticStop(before, most)
    if not writing.stop.update(after, made):
        return writing.stop.best
    writing.memory = memory
    writing.losses.append(before)
    return None


def _stepped(decoding: Decoding, reads: Sequence[Reading]) -> list[tuple[Reading, TokenChosen]]:
    owner = {
        number: (reading, query)
        for reading in reads
        for query, number in enumerate(reading.numbers)
    }
    told = []
    for chosen in decoding.step():
        reading, query = owner[chosen.query]
        if chosen.answer is not None:
            reading.answers[query] = chosen.answer
        told.append((reading, TokenChosen(query, chosen.token, chosen.page)))
    return told

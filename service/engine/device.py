"""The device as the scheduler sees it, and its implementation with torch.

Shapes: `B` pages that are written, `p` pages of a memory that is read, `T` tokens, `m` memory
vectors, `d` width.
"""

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
from gradmem_core.writing.compression import TokenLosses, WrittenPage
from gradmem_core.writing.descent import score_reconstruction, take_gradient_step
from gradmem_core.writing.stopping import AutomaticStop
from service.engine.work import PageKey, ReadWork, TokenChosen, WriteWork
from service.recent import RecentlyUsed

SMALL_MODEL = 2**24
"Parameters below which one CPU thread answers queries."


@dataclass(eq=False)
class OngoingWrite:
    """A page between two gradient steps."""

    work: WriteWork
    memory: Tensor | None = None
    "`(m, d)` on the device; None stands for M0."
    losses: list[float] = field(default_factory=list)
    "Loss before each step so far, nats per token."
    first_token_losses: list[float] = field(default_factory=list)
    "Loss of each token before the first step, nats; empty before it."
    stop: AutomaticStop[WrittenPage] | None = None
    "The stopping rule of `auto`; None before the first step."

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that writes it."""
        return self.work.checkpoint


@dataclass(eq=False)
class OngoingRead:
    """Queries to a memory between two tokens."""

    work: ReadWork
    numbers: list[int] = field(default_factory=list)
    "Numbers of its queries in the decoding batch."
    answers: dict[int, Answer] = field(default_factory=dict)
    "Finished answers by the index of their query."

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that answers them."""
        return self.work.checkpoint

    @property
    def done(self) -> bool:
        """True when every query is answered."""
        return len(self.answers) == len(self.work.queries)


WriteOutcome: TypeAlias = WrittenPage | NonFiniteLossError | None
"The outcome of a step for a page; None where more steps follow."


class Device(Protocol):
    """A device that does one small piece of work at a time, for items of one checkpoint.

    A call that raises has changed none of its items.
    """

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        """Make the next gradient step of each page."""

    def begin(self, reads: Sequence[OngoingRead]) -> None:
        """Add reads to the decoding batch."""

    def read_step(self, reads: Sequence[OngoingRead]) -> list[tuple[OngoingRead, TokenChosen]]:
        """Choose the next token of every query in the decoding batch, which holds just `reads`."""

    def drop(self, reads: Sequence[OngoingRead]) -> None:
        """Take reads out of the decoding batch, as if they had not begun."""

    def read(self, reads: Sequence[OngoingRead]) -> None:
        """Answer reads from start to end, apart from the decoding batch."""

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory."""


class TorchDevice:
    """A device of torch: a CPU or a GPU.

    Args:
        prefix_bytes: Most bytes of prefilled memories that are cached for later requests.
    """

    def __init__(self, *, prefix_bytes: int) -> None:
        self._prefixes = PrefixCache(prefix_bytes)
        self._decoding: dict[int, Decoding] = {}
        "Decoding batches by the identity of their checkpoints, while they have queries."

    def write_step(self, writes: Sequence[OngoingWrite]) -> list[WriteOutcome]:
        """Make the next gradient step of each page (see `Device`)."""
        model, pad_id = writes[0].checkpoint.model, writes[0].checkpoint.tokenizer.pad_id
        start = model.initial_memory.detach()
        contexts = [write.work.context_ids for write in writes]
        ids = pad_right(contexts, pad_id, device=start.device)  # (B, T)
        lengths = torch.tensor([len(context) for context in contexts], device=start.device)
        memory = torch.stack(
            [start if write.memory is None else write.memory for write in writes]
        )  # (B, m, d)
        following, token_losses = take_gradient_step(model, memory, ids, lengths)
        before = token_losses.sum(dim=1) / lengths
        finite = before.isfinite() & following.isfinite().all(dim=(1, 2))
        measured = [row for row, write in enumerate(writes) if _needs_measuring(write)]
        scores: dict[int, _Score] = {}
        if measured:
            rows = torch.tensor(measured, device=start.device)
            score = score_reconstruction(
                model, following[rows], ids[rows, : int(lengths[rows].max())], lengths[rows]
            )
            parts = (score.loss.tolist(), score.accuracy.tolist(), score.token_losses.tolist())
            scores = dict(zip(measured, map(_Score, *parts), strict=True))
        return [
            _apply_step(
                write, following[row], token_losses[row], loss, scores.get(row), finite=is_finite
            )
            for row, (write, loss, is_finite) in enumerate(
                zip(writes, before.tolist(), finite.tolist(), strict=True)
            )
        ]

    def begin(self, reads: Sequence[OngoingRead]) -> None:
        """Add reads to the decoding batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        fresh = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
        with _one_thread_for_small(checkpoint):
            self._join(self._decoding.get(id(checkpoint), fresh), reads)
        self._decoding.setdefault(id(checkpoint), fresh)

    def read_step(self, reads: Sequence[OngoingRead]) -> list[tuple[OngoingRead, TokenChosen]]:
        """Choose the next token of every query in the batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        with _one_thread_for_small(checkpoint):
            chosen = _choose_tokens(self._decoding[id(checkpoint)], reads)
        self._end_if_empty(checkpoint)
        return chosen

    def drop(self, reads: Sequence[OngoingRead]) -> None:
        """Take reads out of the decoding batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        if id(checkpoint) in self._decoding:
            numbers = {number for read in reads for number in read.numbers}
            self._decoding[id(checkpoint)].drop(numbers)
            self._end_if_empty(checkpoint)
        for read in reads:
            read.numbers.clear()
            read.answers.clear()

    def read(self, reads: Sequence[OngoingRead]) -> None:
        """Answer reads apart from the decoding batch (see `Device`)."""
        checkpoint = reads[0].checkpoint
        decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
        with _one_thread_for_small(checkpoint):
            self._join(decoding, reads)
            while len(decoding):
                _choose_tokens(decoding, reads)

    def forget(self, memory_id: str) -> None:
        """Drop what is cached of a memory (see `Device`)."""
        self._prefixes.forget(memory_id)

    def _end_if_empty(self, checkpoint: Checkpoint) -> None:
        """Let go of an empty batch, and with it of a checkpoint that is not served any more."""
        if not len(self._decoding[id(checkpoint)]):
            del self._decoding[id(checkpoint)]

    def _join(self, decoding: Decoding, reads: Sequence[OngoingRead]) -> None:
        works = [read.work for read in reads]
        prefixes = zip(works, self._prefixes.fetch(reads), strict=True)
        numbers = iter(
            decoding.join(
                [pages for work, pages in prefixes for _ in work.queries],
                [query for work in works for query in work.queries],
                [sampling for work in works for sampling in work.sampling],
                [work.documents for work in works for _ in work.queries],
            )
        )
        for read in reads:
            read.numbers[:] = [next(numbers) for _ in read.work.queries]


class PrefixCache:
    """A cache of prefilled memories; the least recently read leave first.

    Args:
        max_bytes: Most bytes that it holds.
    """

    def __init__(self, max_bytes: int) -> None:
        self._cached: RecentlyUsed[PageKey, Prefix] = RecentlyUsed(
            max_bytes, size=lambda prefix: prefix.bytes
        )

    @property
    def bytes(self) -> int:
        """Bytes that it holds."""
        return self._cached.bytes

    def fetch(self, reads: Sequence[OngoingRead]) -> list[list[Prefix]]:
        """Return the prefixes of each read's pages; compute those that are missing together."""
        wanted = [dict(zip(_keys(read.work), read.work.memory, strict=True)) for read in reads]
        pages = {key: memory for memories in wanted for key, memory in memories.items()}
        prefixes = {key: prefix for key in pages if (prefix := self._cached.get(key)) is not None}
        missing = {key: memory for key, memory in pages.items() if key not in prefixes}
        if missing:
            model = reads[0].checkpoint.model
            memory = torch.stack(list(missing.values()))  # (B, m, d)
            computed = prefill(model, memory.to(model.initial_memory.device))
            prefixes |= dict(zip(missing, computed, strict=True))
        for read, keys in zip(reads, wanted, strict=True):
            if read.work.page_keys is not None:
                for key in keys:
                    if key in missing:
                        self._cached.put(key, prefixes[key])
        return [[prefixes[key] for key in keys] for keys in wanted]

    def forget(self, memory_id: str) -> None:
        """Remove the prefixes of a memory's pages."""
        for page in [page for page in self._cached if page[0] == memory_id]:
            self._cached.remove(page)


@contextmanager
def _one_thread_for_small(checkpoint: Checkpoint) -> Iterator[None]:
    """Run a small model with one thread.

    A token takes little computation: a second thread would mostly spin, on a core that the event
    loop needs, while READ keeps the device busy.
    """
    usual = torch.get_num_threads()
    if checkpoint.parameters < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _keys(work: ReadWork) -> list[PageKey]:
    """Return the keys of the pages; where there are none, keys that no other work has."""
    if work.page_keys is not None:
        return list(work.page_keys)
    return [(f"work {id(work)}", str(page)) for page in range(len(work.memory))]


def _needs_measuring(write: OngoingWrite) -> bool:
    """Return whether the loss after the next step is needed: it may be the last."""
    steps = write.work.steps
    return steps == "auto" or len(write.losses) + 1 == steps


@dataclass(frozen=True)
class _Score:
    """The score of a memory after a step, by its page."""

    loss: float
    accuracy: float
    token_losses: list[float]
    "Loss of each token, then of the padding."


def _apply_step(
    write: OngoingWrite,
    memory: Tensor,
    token_losses: Tensor,
    before: float,
    after: _Score | None,
    *,
    finite: bool,
) -> WriteOutcome:
    """Record a gradient step of a page, and finish the page where it was the last.

    Args:
        write: The page.
        memory: The memory after the step, `(m, d)`.
        token_losses: The loss of each token before the step, then of the padding, `(T,)`.
        before: Their mean.
        after: The score of the memory after the step; None where it was not measured.
        finite: False where the loss or the memory is not finite.
    """
    if not finite:
        return NonFiniteLossError(
            "WRITE diverged: a loss or the memory is not finite; use fewer steps", samples=[0]
        )
    if not write.first_token_losses:
        write.first_token_losses = token_losses[: write.work.tokens].tolist()
    if after is not None:
        page = WrittenPage(
            memory.cpu(),
            [*write.losses, before, after.loss],
            after.accuracy,
            TokenLosses(write.first_token_losses, after.token_losses[: write.work.tokens]),
        )
        if write.work.steps != "auto":
            return page
        if write.stop is None:
            write.stop = AutomaticStop(before, write.checkpoint.model.config.max_write_steps)
        if not write.stop.update(after.loss, page):
            return write.stop.best
    write.memory = memory
    write.losses.append(before)
    return None


def _choose_tokens(
    decoding: Decoding, reads: Sequence[OngoingRead]
) -> list[tuple[OngoingRead, TokenChosen]]:
    """Choose the next token of every query, and take over the answers that it finishes."""
    owners = {number: (read, query) for read in reads for query, number in enumerate(read.numbers)}
    tokens = []
    for chosen in decoding.step():
        read, query = owners[chosen.query]
        if chosen.answer is not None:
            read.answers[query] = chosen.answer
        event = TokenChosen(
            read.work.first_query + query, chosen.token, chosen.probability, chosen.page
        )
        tokens.append((read, event))
    return tokens

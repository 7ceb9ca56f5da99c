"""Memories that are written once for several measurements: WRITE is what takes the time.

Shapes: `N` pages, `m` memory vectors, `d` width.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import NonFiniteLossError
from gradmem_core.limits import check_context
from gradmem_core.padding import pad_right
from gradmem_core.writing.descent import take_gradient_step

BATCH_TOKENS = 512
"Most tokens that are written together, padding included."


class MemoryBank:
    """Writes pages with a checkpoint, and keeps their memories.

    Args:
        checkpoint: What writes them.
        folder: Where they are kept, a file for each page; None keeps nothing.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path | None = None) -> None:
        self._checkpoint = checkpoint
        self._folder = None if folder is None else folder / checkpoint.fingerprint[:16]

    def memories(self, pages: Sequence[list[int]], steps: Sequence[int]) -> dict[int, Tensor]:
        """Return the pages' memories `(N, m, d)` after each number of steps.

        Args:
            pages: Token ids of each page.
            steps: Numbers of gradient steps, which may be more than the checkpoint serves.

        Raises:
            EmptyContextError: A page has no token.
            ContextTooLongError: A page is longer than the checkpoint was trained for.
            NonFiniteLossError: A memory became infinite or NaN.
        """
        config = self._checkpoint.model.config
        for page in pages:
            check_context(config, len(page))
        by_key = {_key(page, steps): page for page in pages}
        memories = {key: self._load(key) for key in by_key if self._holds(key)}
        missing = {key: page for key, page in by_key.items() if key not in memories}
        with tqdm(total=len(missing), unit="page", disable=None, leave=False) as bar:
            for batch in _batches(missing):
                written = self._write(list(batch.values()), steps)
                for key, memory in zip(batch, written, strict=True):
                    memories[key] = memory
                    self._save(key, memory)
                bar.update(len(batch))
        rows = [memories[_key(page, steps)] for page in pages]
        return {k: torch.stack([row[str(k)] for row in rows]) for k in steps}

    def _write(self, pages: Sequence[list[int]], steps: Sequence[int]) -> list[dict[str, Tensor]]:
        """Make the largest number of steps, keeping the memory after each that is asked for."""
        model = self._checkpoint.model
        start = model.initial_memory.detach()
        ids = pad_right(pages, self._checkpoint.tokenizer.pad_id, device=start.device)
        lengths = torch.tensor([len(page) for page in pages], device=start.device)
        memory = start.expand(len(pages), -1, -1)
        written: list[dict[str, Tensor]] = [{} for _ in pages]
        for step in range(1, max(steps) + 1):
            memory, _ = take_gradient_step(model, memory, ids, lengths)
            if step in steps:
                for row, memories in enumerate(written):
                    memories[str(step)] = memory[row].cpu().clone()
        finite = memory.isfinite().all(dim=(1, 2))
        if not finite.all():
            samples = (~finite).nonzero().flatten().tolist()
            message = f"WRITE diverged for {len(samples)} pages; use fewer steps"
            raise NonFiniteLossError(message, samples=samples)
        return written

    def _holds(self, key: str) -> bool:
        return self._folder is not None and (self._folder / key).exists()

    def _load(self, key: str) -> dict[str, Tensor]:
        assert self._folder is not None
        return load_file(self._folder / key)

    def _save(self, key: str, memories: dict[str, Tensor]) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{key}.new"
        save_file(memories, unfinished)
        unfinished.rename(self._folder / key)


def _key(page: list[int], steps: Sequence[int]) -> str:
    """Return the name of a page's file."""
    digest = hashlib.sha256(json.dumps([page, list(steps)]).encode()).hexdigest()
    return f"{digest[:40]}.safetensors"


def _batches(pages: dict[str, list[int]]) -> Iterator[dict[str, list[int]]]:
    """Put pages of similar length together."""
    batch: dict[str, list[int]] = {}
    for key in sorted(pages, key=lambda key: len(pages[key])):
        if batch and (len(batch) + 1) * len(pages[key]) > BATCH_TOKENS:
            yield batch
            batch = {}
        batch[key] = pages[key]
    if batch:
        yield batch

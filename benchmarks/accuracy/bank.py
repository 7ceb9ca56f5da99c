"""Memories kept on disk between measurements: writing them is what takes the time.

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
from gradmem_core.padding import pad_right
from gradmem_core.writing.descent import take_gradient_step

BATCH_TOKENS = 512
"Most tokens that are written together, padding included."


class MemoryBank:
    """Writes pages with a checkpoint, each once.

    Args:
        folder: Where the memories are kept; a file for each page.
        checkpoint: What writes them.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self._folder = folder / checkpoint.fingerprint[:16]
        self._checkpoint = checkpoint
        self._folder.mkdir(parents=True, exist_ok=True)

    def memories(self, pages: Sequence[list[int]], steps: Sequence[int]) -> dict[int, Tensor]:
        """Return the pages' memories `(N, m, d)` after each number of steps.

        Args:
            pages: Token ids of each page.
            steps: Numbers of gradient steps, ascending.
        """
        missing = {self._path(page, steps): page for page in pages}
        missing = {path: page for path, page in missing.items() if not path.exists()}
        with tqdm(total=len(missing), desc="pages", disable=not missing) as bar:
            for batch in _batches(list(missing.values())):
                for page, found in zip(batch, self._write(batch, steps), strict=True):
                    path = self._path(page, steps)
                    save_file(found, path.with_suffix(".new"))
                    path.with_suffix(".new").rename(path)
                bar.update(len(batch))
        kept = [load_file(self._path(page, steps)) for page in pages]
        return {k: torch.stack([memories[str(k)] for memories in kept]) for k in steps}

    def _path(self, page: list[int], steps: Sequence[int]) -> Path:
        key = hashlib.sha256(json.dumps([page, list(steps)]).encode()).hexdigest()
        return self._folder / f"{key[:40]}.safetensors"

    def _write(self, pages: Sequence[list[int]], steps: Sequence[int]) -> list[dict[str, Tensor]]:
        """Take the last number of steps, keeping the memory after each that is asked for."""
        model = self._checkpoint.model
        start = model.initial_memory.detach()
        ids = pad_right(pages, self._checkpoint.tokenizer.pad_id, device=start.device)
        lengths = torch.tensor([len(page) for page in pages], device=start.device)
        memory = start.expand(len(pages), -1, -1)
        kept: list[dict[str, Tensor]] = [{} for _ in pages]
        for step in range(1, max(steps) + 1):
            memory, _ = take_gradient_step(model, memory, ids, lengths)
            if step in steps:
                for row, found in enumerate(kept):
                    found[str(step)] = memory[row].cpu().clone()
        return kept


def _batches(pages: list[list[int]]) -> Iterator[list[list[int]]]:
    """Put pages of similar length together."""
    batch: list[list[int]] = []
    for page in sorted(pages, key=len):
        if batch and (len(batch) + 1) * len(page) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(page)
    if batch:
        yield batch

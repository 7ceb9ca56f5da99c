"""Examples as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gradmem_core.padding import pad_right
from training.tasks import Example, TextFormat

IGNORED = -100
"The label of a token that is not scored."
MOST_PADDED = 1.5
"Lengths of the longest and the shortest context of a part, as a ratio."


@dataclass(frozen=True)
class Batch:
    """Contexts with their questions: `B` contexts, `Q` queries each, `T` tokens."""

    context_ids: Tensor
    "`(B, T)`, padded on the right."
    lengths: Tensor
    "Tokens of each context, `(B,)`."
    query_ids: Tensor
    "Queries followed by their targets, `(B, Q, T)`, padded on the right."
    labels: Tensor
    "The targets' ids where they stand in `query_ids`, IGNORED elsewhere, `(B, Q, T)`."
    share_of_contexts: float = 1.0
    "Its share of the contexts of its micro-batch."
    share_of_targets: float = 1.0
    "Its share of the target tokens of its micro-batch."

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device."""
        pinned = device.type == "cuda"
        tensors = {
            name: (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)
            for name, tensor in self._tensors().items()
        }
        return replace(self, **cast("Any", tensors))

    def to_arrays(self) -> dict[str, Any]:
        """Return its fields with arrays in place of tensors, to send to another process."""
        return vars(self) | {name: tensor.numpy() for name, tensor in self._tensors().items()}

    @classmethod
    def from_arrays(cls, fields: dict[str, Any]) -> "Batch":
        """Make a batch of what `to_arrays` returned."""
        tensors = {
            name: torch.from_numpy(value)
            for name, value in fields.items()
            if isinstance(value, np.ndarray)
        }
        return cls(**fields | tensors)

    def halves(self) -> list["Batch"]:
        """Split into two batches of half the contexts, whose losses sum up to the whole's.

        Raises:
            ValueError: It has one context only.
        """
        count = len(self.lengths)
        if count < 2:
            raise ValueError("a batch of one context has no halves")
        rows = [slice(count // 2), slice(count // 2, count)]
        return _with_shares([self._rows(part) for part in rows], of=self)

    def _rows(self, rows: slice) -> "Batch":
        """Return some of the contexts, without the columns that are padding for all of them."""
        lengths, labels = self.lengths[rows], self.labels[rows]
        return Batch(
            self.context_ids[rows, : int(lengths.max())], lengths, self.query_ids[rows], labels
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def collate(
    examples: Sequence[Example], form: TextFormat, *, device: torch.device | None = None
) -> Batch:
    """Make a batch of examples that all have the same number of questions, on a device."""
    tokenizer = form.tokenizer
    contexts = [tokenizer.encode(example.context) for example in examples]
    rows = [
        (form.encode_query(question), tokenizer.encode(question.target))
        for example in examples
        for question in example.questions
    ]
    shape = (len(examples), len(examples[0].questions), -1)
    pad = partial(pad_right, device=device)
    return Batch(
        context_ids=pad(contexts, tokenizer.pad_id),
        lengths=torch.tensor([len(context) for context in contexts], device=device),
        query_ids=pad([query + target for query, target in rows], tokenizer.pad_id).view(shape),
        labels=pad([[IGNORED] * len(q) + target for q, target in rows], IGNORED).view(shape),
    )


def collate_parts(examples: Sequence[Example], form: TextFormat) -> list[Batch]:
    """Make a micro-batch in parts of contexts of similar length, so that little of it is padding.

    The losses of the parts (see `outer_loss`) sum up to that of the whole micro-batch.
    """
    parts: list[list[Example]] = []
    shortest = 0
    for length, example in sorted(
        ((len(form.tokenizer.encode(example.context)), example) for example in examples),
        key=lambda measured: measured[0],
    ):
        if not parts or length > MOST_PADDED * shortest:
            parts.append([])
            shortest = length
        parts[-1].append(example)
    return _with_shares([collate(part, form) for part in parts])


def _with_shares(batches: Sequence[Batch], of: Batch | None = None) -> list[Batch]:
    """Return parts with their shares of the micro-batch that they make up, or of a part of it."""
    contexts = [len(batch.lengths) for batch in batches]
    targets = [int((batch.labels != IGNORED).sum()) for batch in batches]
    whole = (1.0, 1.0) if of is None else (of.share_of_contexts, of.share_of_targets)
    return [
        replace(
            batch,
            share_of_contexts=whole[0] * count / sum(contexts),
            share_of_targets=whole[1] * scored / sum(targets),
        )
        for batch, count, scored in zip(batches, contexts, targets, strict=True)
    ]

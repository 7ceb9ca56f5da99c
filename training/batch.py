"""Examples as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

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
    """Contexts with their questions. `B` contexts, `Q` queries each, `T` tokens."""

    context_ids: Tensor
    "`(B, T)`, padded on the right."
    lengths: Tensor
    "Tokens of each context, `(B,)`."
    query_ids: Tensor
    "Queries followed by their targets, `(B, Q, T)`, padded on the right."
    labels: Tensor
    "The targets' ids where they stand in `query_ids`, IGNORED elsewhere, `(B, Q, T)`."
    share_of_contexts: float = 1.0
    "How many of its micro-batch's contexts it has, as a share."
    share_of_targets: float = 1.0
    "How many of its micro-batch's target tokens it has, as a share."


def collate(
    examples: Sequence[Example], form: TextFormat, *, device: torch.device | None = None
) -> Batch:
    """Make a batch of examples that all have the same number of questions, on a device."""
    tokenizer = form.tokenizer
    contexts = [tokenizer.encode(example.context) for example in examples]
    rows = [
        (form.query(question.query), tokenizer.encode(question.target))
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


def collate_parts(
    examples: Sequence[Example], form: TextFormat, *, device: torch.device | None = None
) -> list[Batch]:
    """Make a micro-batch in parts of contexts of similar length, so that little of it is padding.

    The sum of what the parts give (see `outer_loss`) is what the micro-batch would give whole.
    """
    parts: list[list[Example]] = []
    shortest = 0
    for length, example in sorted(
        ((len(form.tokenizer.encode(example.context)), example) for example in examples),
        key=lambda one: one[0],
    ):
        if not parts or length > MOST_PADDED * shortest:
            parts.append([])
            shortest = length
        parts[-1].append(example)
    batches = [collate(part, form, device=device) for part in parts]
    targets = [int((batch.labels != IGNORED).sum()) for batch in batches]
    return [
        replace(
            batch,
            share_of_contexts=len(batch.lengths) / len(examples),
            share_of_targets=count / sum(targets),
        )
        for batch, count in zip(batches, targets, strict=True)
    ]

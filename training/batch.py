"""Examples as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradmem_core.padding import pad_right
from training.tasks import Example, TextFormat

IGNORED = -100
"The label of a token that is not scored."


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

"""Print docs/TRAINING_COST.md: `.venv/bin/python scripts/training_cost.py > docs/TRAINING_COST.md`.

The operations of a training step and the bytes that it keeps for its gradient are counted while one
context goes through it (GPT-2's shape, random weights, float32), not estimated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from training.loop.batch import Batch
from training.loop.step import outer_loss
from training.recipe import Recipe, load_recipe
from training.writers.gradmem import GradMem

PEAK = 312e12
"Operations a second in bfloat16 of an A100 (data sheet)."
REACHED = 0.3
"Share of the peak that is assumed to be reached."
STATE = 16
"Bytes of a parameter: weight, gradient and AdamW's two moments in float32."


@dataclass(frozen=True)
class Shape:
    """What a recipe's contexts are like, counted on the data with a byte-pair vocabulary of 49k."""

    recipe: str
    memory_tokens: int
    context_tokens: int
    "Of a mean context."
    long_context_tokens: int
    "Of one in a hundred."
    query_tokens: int
    "Of a query with its template and its answer."


SHAPES = (
    Shape("short-squad-gpt2", 32, 38, 108, 24),
    Shape("babi-gpt2", 8, 72, 500, 14),
)
PAGE = """# What training costs on a GPU

Computed by `scripts/training_cost.py`, not measured: no GPU was at hand. The operations of a
training step and the bytes that it keeps are counted while one context goes through it on the CPU
(GPT-2's shape, random weights). Taken as given: an A100 with 80 GB, {peak:.0f} TFLOP/s in bfloat16
(data sheet), of which {reached:.0%} is reached; the lengths of the contexts, counted on the data.
Kept bytes are those of float32, of a micro-batch of mean contexts beside {state} bytes a parameter;
bfloat16 keeps less. The last column is a micro-batch of long contexts alone (one in a hundred is as
long): where that is too much, `recompute = true` or a smaller `batch.micro_batch` helps.

{table}
"""
HEAD = (
    "recipe",
    "m, K",
    "tokens of a context, long ones",
    "TFLOP a context",
    "contexts",
    "EFLOP in all",
    "GPU hours",
    "GB, mean contexts",
    "GB, long contexts",
)


def gpt2(memory_tokens: int) -> GradMem:
    """A writer of GPT-2's shape (Radford et al., 2019): 12 layers, width 768, 1,024 positions."""
    backbone = Backbone.from_config({"model_type": "gpt2"}, seed=0)
    config = MemoryConfig(
        memory_tokens=memory_tokens,
        write_steps=5,
        inner_learning_rate=1.0,
        inner_learning_rate_per_element=True,
        inner_gradient_clip=0.4,
        write_head=False,
        memory_projection=True,
        max_context_tokens=900,
        max_query_tokens=60,
        max_answer_tokens=60,
    )
    return GradMem(MemoryModel(backbone, config, seed=0))


def context(tokens: int, queries: int, query_tokens: int) -> Batch:
    """One context of no meaning, whose queries end with an answer."""
    query_ids = torch.ones(1, queries, query_tokens, dtype=torch.long)
    labels = query_ids.clone()
    labels[:, :, : -query_tokens // 4] = -100
    ids = torch.ones(1, tokens, dtype=torch.long)
    return Batch(ids, torch.tensor([tokens]), query_ids, labels)


@contextmanager
def kept_bytes(outside: torch.nn.Module) -> Iterator[list[int]]:
    """The bytes that graphs keep inside, one storage once, parameters not counted."""
    known = {one.untyped_storage().data_ptr() for one in outside.parameters()}
    held: list[Tensor] = []  # a storage that is freed could come back as another one's
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            held.append(tensor.detach())
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def counted(writer: GradMem, recipe: Recipe, batch: Batch) -> tuple[float, float]:
    """Operations of a context, forward and backward, and the bytes that are kept for it."""
    with (
        FlopCounterMode(display=False) as operations,
        kept_bytes(writer.model) as sizes,
    ):
        outcome = outer_loss(
            writer,
            batch,
            steps=recipe.train_write_steps,
            write_loss_weight=recipe.write_loss_weight,
        )
        outcome.loss.backward()  # type: ignore[no-untyped-call]
    return float(operations.get_total_flops()), float(sum(sizes))


def row(shape: Shape) -> tuple[str, ...]:
    """A line of the table."""
    recipe = load_recipe(shape.recipe)
    writer = gpt2(shape.memory_tokens)
    state = STATE * sum(one.numel() for one in writer.model.parameters())
    queries, at_once = recipe.batch.queries, recipe.batch.micro_batch
    assert at_once is not None
    assert recipe.budget_tokens is not None
    (flop, mean), (_, long) = (
        counted(writer, recipe, context(tokens, queries, shape.query_tokens))
        for tokens in (shape.context_tokens, shape.long_context_tokens)
    )
    contexts = recipe.budget_tokens / shape.context_tokens
    return (
        f"`{shape.recipe}`",
        f"{shape.memory_tokens}, {recipe.train_write_steps}",
        f"{shape.context_tokens}, {shape.long_context_tokens}",
        f"{flop / 1e12:.2f}",
        f"{contexts:,.0f}",
        f"{flop * contexts / 1e18:.2f}",
        f"{flop * contexts / (REACHED * PEAK) / 3600:.1f}",
        f"{(state + at_once * mean) / 1e9:.0f}",
        f"{(state + at_once * long) / 1e9:.0f}",
    )


def page() -> str:
    """The page."""
    lines = [HEAD, ["---"] * len(HEAD), *map(row, SHAPES)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return PAGE.format(peak=PEAK / 1e12, reached=REACHED, state=STATE, table=table)


if __name__ == "__main__":
    print(page(), end="")

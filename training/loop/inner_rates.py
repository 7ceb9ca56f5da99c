"""The step sizes of WRITE when training starts from a checkpoint whose steps were others."""

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor

from gradmem_core.model import MemoryModel
from gradmem_core.writing.descent import take_gradient_step
from training.loop.batch import collate
from training.loop.data import TrainingData
from training.recipes.schema import Recipe
from training.seeds import stream

CONTEXTS = 16
"Contexts on which the lengths of steps are compared."


@torch.no_grad()
def adjust_inner_rates(
    model: MemoryModel, before: MemoryModel, data: TrainingData, recipe: Recipe
) -> None:
    """Adjust the step sizes of a model that has the weights of another.

    They are multiplied by `inner_rate_factor`. If only the new model normalises gradients, the mean
    length of the first step is kept, or that of every step where each has a learned factor.

    Args:
        model: The model in training; its step sizes change.
        before: The model that it has the weights of.
        data: Its data, from which contexts are drawn.
        recipe: What is trained.
    """
    if model.log_inner_learning_rate is None:
        return
    log_factor = math.log(model.config.inner_rate_factor)
    if not model.config.inner_gradient_normalise or before.config.inner_gradient_normalise:
        model.log_inner_learning_rate += log_factor
        return
    examples = [
        data.task.sample(stream("selection", recipe.seed, row), size=recipe.sizes[-1], queries=1)
        for row in range(CONTEXTS)
    ]
    batch = collate(examples, data.form)
    ratios = _compare_lengths(model, before, batch.context_ids, batch.lengths)
    model.log_inner_learning_rate += ratios[0].log() + log_factor
    if model.log_inner_step_factors is not None:
        model.log_inner_step_factors += (ratios / ratios[0]).log()


def _compare_lengths(
    model: MemoryModel, before: MemoryModel, context_ids: Tensor, lengths: Tensor
) -> Tensor:
    """Return the mean length of each step as it was over what it is, along the steps before."""
    steps = model.config.write_steps
    memory = before.initial_memory.expand(len(context_ids), -1, -1)  # (B, m, d)
    ratios = []
    for index in range(steps):
        take = partial(take_gradient_step, context_ids=context_ids, lengths=lengths)
        following, _ = take(before, memory, place=(index, steps))
        changed, _ = take(model, memory, place=(index, steps))
        ratios.append(_mean_length(following - memory) / _mean_length(changed - memory))
        memory = following
    return torch.stack(ratios)


def _mean_length(steps: Tensor) -> Tensor:
    return cast("Tensor", steps.flatten(1).norm(dim=1).mean())

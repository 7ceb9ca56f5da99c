"""Descriptions of a trained checkpoint: the record of its training, and its model card."""

import platform

from gradmem_core.config import MemoryConfig
from training.loop.data import TrainingData
from training.recipes.schema import Recipe
from training.writers import Training

GRADMEM = (
    "A GradMem checkpoint: a document becomes {vectors} vectors by gradient descent, and\n"
    "queries are answered from the vectors alone. Method: arXiv 2603.13875."
)
CLEAN = "none of its texts were trained on"
UNCLEAN = """the weights that the run started from may have been trained on it, so do not choose
  anything by figures on it"""
BASELINE = "A baseline of GradMem, to be measured beside it: `{writer}`."


def describe_training(
    recipe: Recipe, before: Training | None, *, contexts: int, tokens: int, seconds: float
) -> Training:
    """Describe a run, with those that it started from.

    Args:
        recipe: The run's recipe.
        before: The record of the checkpoint that it started from; None if it has none, or if
            nothing that it had learned was taken.
        contexts: Contexts that the run has written.
        tokens: Their tokens.
        seconds: Its wall-clock time.
    """
    anew = recipe.start is None or recipe.fresh
    return Training(
        recipe=recipe.name,
        writer=recipe.writer,
        seed=recipe.seed,
        write_steps=recipe.extreme_write_steps[1],
        contexts=contexts + (before.contexts if before else 0),
        tokens=tokens + (before.tokens if before else 0),
        seconds=seconds + (before.seconds if before else 0.0),
        sizes=recipe.sizes,
        clean=anew or (before is not None and before.clean),
    )


def write_card(recipe: Recipe, data: TrainingData, training: Training) -> str:
    """Write the model card of a run, without figures: `gradmem-bench` measures those.

    Args:
        recipe: The run's recipe.
        data: Its data.
        training: The record of its training, with the runs that it started from.
    """
    task, form, memory = data.task, data.form, data.memory
    about = BASELINE.format(writer=recipe.writer)
    limits = (
        f"{memory.max_context_tokens} context tokens, {memory.max_query_tokens} query tokens,\n"
        f"  {memory.max_answer_tokens} answer tokens"
    )
    if isinstance(memory, MemoryConfig):
        about = GRADMEM.format(vectors=memory.memory_tokens)
        limits += (
            f"; {memory.write_steps} write steps by default, at most\n  {memory.max_write_steps}"
        )
    fewest_steps, most_steps = recipe.extreme_write_steps
    steps = str(most_steps) if fewest_steps == most_steps else f"{fewest_steps} to {most_steps}"
    sizes = "sizes " + ", ".join(map(str, training.sizes)) + " with smaller ones mixed in"
    if recipe.mixture is not None:
        sources = [name for name, weight in recipe.mixture.sources.items() if weight]
        sizes = "windows of " + ", ".join(sources)
    licence = "that of the data and of what it started from" if recipe.start else "that of the data"
    return f"""# {recipe.name}

{about}

- Task: `{recipe.task}`, trained on {sizes}.
- For: documents such as {form.card.example_document!r} and queries such as
  {form.card.example_query!r}.
- Limits: {limits}.
- Training: recipe `{recipe.name}`, seed {recipe.seed}, K = {steps},
  {training.contexts} contexts of {training.tokens} tokens in all, {training.seconds / 60:.0f}
  minutes with {recipe.threads} threads ({platform.machine()}), counting the runs it started from.
- Where it fails: documents of another kind, or above size {training.sizes[-1]}, which training
  never saw; {task.fails}.
  `gradmem-bench exact-match` measures how often it fails within these bounds.
- Selection split: {CLEAN if training.clean else UNCLEAN}.
- Licence: {licence}.
"""

"""The model card of a trained checkpoint."""

import platform

from training.recipe import Recipe


def model_card(recipe: Recipe, *, step: int, tokens: int, seconds: float) -> str:
    """The card of a finished run, without figures: `gradmem-train evaluate` measures those.

    Args:
        recipe: The run's recipe.
        step: Optimizer steps made.
        tokens: Context tokens written.
        seconds: Wall-clock time of the run.
    """
    memory = recipe.memory
    sizes = ", ".join(str(stage.size) for stage in recipe.curriculum.stages)
    return f"""# {recipe.name}

A GradMem checkpoint: a document becomes {memory.memory_tokens} vectors by gradient descent, and
queries are answered from the vectors alone. Method: arXiv 2603.13875.

- Task: `{recipe.task}`, trained on sizes {sizes} with smaller ones mixed in.
- Limits: {memory.max_context_tokens} context tokens, {memory.max_query_tokens} query tokens,
  {memory.max_answer_tokens} answer tokens; {memory.write_steps} write steps by default, at most
  {memory.max_write_steps}.
- Training: recipe `{recipe.name}`, seed {recipe.seed}, K = {recipe.train_write_steps}, {step}
  optimizer steps, {tokens} context tokens, {seconds / 60:.0f} minutes with {recipe.threads} threads
  ({platform.machine()}).
- Licence: Apache-2.0.
"""

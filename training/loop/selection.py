"""Evaluation on the selection split during a run."""

from collections.abc import Iterator
from dataclasses import dataclass

from training.evaluation.scores import Score, evaluate
from training.loop.data import TrainingData
from training.recipes.schema import Recipe
from training.writers import Writer


@dataclass(frozen=True)
class SelectionScores:
    """Scores at one context size and number of write steps."""

    size: int
    "Size of the contexts."
    write_steps: int
    "Write steps (K)."
    parts: dict[str, Score]
    "Scores by the names of the task's parts; a task without parts is one part."


def evaluate_selection(
    recipe: Recipe, data: TrainingData, writer: Writer
) -> Iterator[SelectionScores]:
    """Measure a writer at every size and number of write steps that the recipe evaluates."""
    plan, parts = recipe.evaluation, data.task.parts()
    for size in plan.sizes:
        for write_steps in plan.write_steps:
            scores = {
                name: evaluate(
                    writer,
                    data.form,
                    part,
                    size=size,
                    contexts=plan.contexts,
                    queries=plan.queries,
                    write_steps=write_steps,
                    seed=recipe.seed,
                    split="selection",
                )
                for name, part in parts.items()
            }
            yield SelectionScores(size, write_steps, scores)

"""The data of a run: its task, and how texts become tokens."""

from dataclasses import dataclass

from gradmem_core.checkpoints.manifest import find_checkpoint, read_manifest
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import RecipeError
from gradmem_core.tokenizer import Tokenizer
from training.recipes.schema import Recipe
from training.tasks import ProseTask, TextFormat, TrainingTask, build_prose_task, build_task
from training.writers import LengthLimits


@dataclass(frozen=True)
class TrainingData:
    """A source of contexts and questions, with all that turns them into tokens."""

    task: TrainingTask
    "Source of contexts and questions."
    form: TextFormat
    "Turns texts into tokens."
    memory: MemoryConfig | LengthLimits
    "The memory's settings, with the limits of lengths."

    @property
    def memory_tokens(self) -> int:
        """Vectors that stand before a context (m); 0 for a writer without any."""
        return getattr(self.memory, "memory_tokens", 0)


def load_training_data(recipe: Recipe) -> TrainingData:
    """Open the data that a recipe trains on.

    Raises:
        CheckpointError: The checkpoint to start from is missing or damaged.
        DataError: Files of the task cannot be used.
        RecipeError: There is no such task or source, or it does not go with the recipe.
    """
    if recipe.backbone is not None:
        assert recipe.memory is not None
        task = build_task(recipe.task, recipe.data)
        return TrainingData(task, task.format(), recipe.memory)
    folder = find_checkpoint(require_start(recipe))
    manifest = read_manifest(folder)
    form = TextFormat(Tokenizer.from_folder(folder), manifest.task)
    if recipe.mixture is None:
        return TrainingData(build_task(recipe.task, recipe.data), form, manifest.memory)
    if recipe.task != ProseTask.name:
        raise RecipeError(f"task: a mixture makes the task {ProseTask.name!r}, not {recipe.task!r}")
    mixture = build_prose_task(
        recipe.mixture.sources,
        form.tokenizer,
        absent=recipe.mixture.absent,
        longest=manifest.memory.max_context_tokens,
        data=recipe.data,
    )
    return TrainingData(mixture, form, manifest.memory)


def require_start(recipe: Recipe) -> str:
    """Return the checkpoint that a recipe without a backbone of its own starts from.

    Raises:
        RecipeError: It names none.
    """
    if recipe.start is None:
        raise RecipeError(
            "start: this recipe trains a pretrained model; make a checkpoint of one by"
            " `gradmem-train init` and name it (--set start=CHECKPOINT)"
        )
    return recipe.start

"""Runs that start from a checkpoint's weights."""

from torch import nn

from gradmem_core.errors import RecipeError
from training.writers import Training, load_writer


def start_from(model: nn.Module, reference: str) -> Training | None:
    """Take a checkpoint's weights over into a model of the same sizes.

    Returns:
        How they were trained, where that is known.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        RecipeError: Its weights do not fit.
    """
    loaded = load_writer(reference)
    weights = loaded.writer.model.state_dict()
    ours = model.state_dict()
    for name, tensor in weights.items():
        if name not in ours or ours[name].shape != tensor.shape:
            has = list(ours[name].shape) if name in ours else "no such weight"
            raise RecipeError(
                f"start: {name} of {reference} is {list(tensor.shape)}, this recipe has {has}"
            )
    model.load_state_dict(weights, strict=False)
    return loaded.training

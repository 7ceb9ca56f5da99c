"""Writers by name."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import InputError
from gradmem_core.model import MemoryModel
from training.writers.armt import Armt, ArmtConfig, ArmtModel
from training.writers.base import LengthLimits, Writer
from training.writers.full_context import FullContext, FullContextModel
from training.writers.gradmem import FirstOrderGradMem, GradMem
from training.writers.rmt import Rmt, RmtConfig, RmtModel

Config: TypeAlias = MemoryConfig | LengthLimits
"The configuration of a writer's memory in a recipe."

CONFIGS: dict[str, type[Config]] = {
    GradMem.kind: MemoryConfig,
    FirstOrderGradMem.kind: MemoryConfig,
    Rmt.kind: RmtConfig,
    Armt.kind: ArmtConfig,
    FullContext.kind: LengthLimits,
}
"The configuration class of each writer."

WRITERS: dict[str, Callable[[Any], Writer]] = {
    writer.kind: writer for writer in (GradMem, FirstOrderGradMem, Rmt, Armt, FullContext)
}
"Writers by name, each over a model of its own class."


def build_writer(kind: str, backbone: Backbone, config: Config, *, seed: int) -> Writer:
    """Build an untrained writer.

    Args:
        kind: A key of CONFIGS.
        backbone: Its causal language model.
        config: Of the class that CONFIGS names.
        seed: Seed of the weights beside the backbone.

    Raises:
        InputError: There is no such writer.
        CheckpointError: The configuration does not fit the backbone.
    """
    if kind not in CONFIGS:
        raise InputError(f"writer {kind!r} is not one of {', '.join(CONFIGS)}")
    model: nn.Module
    if isinstance(config, MemoryConfig):
        model = MemoryModel(backbone, config, seed=seed)
    elif isinstance(config, ArmtConfig):
        model = ArmtModel(backbone, config, seed=seed)
    elif isinstance(config, RmtConfig):
        model = RmtModel(backbone, config, seed=seed)
    else:
        model = FullContextModel(backbone, config)
    return WRITERS[kind](model)

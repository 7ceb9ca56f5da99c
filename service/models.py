"""The checkpoints that the service has loaded."""

from collections.abc import Sequence

from gradmem_core.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import CheckpointError, ModelNotFoundError


class Models:
    """Loaded checkpoints by name; the first is the default.

    Raises:
        CheckpointError: Two of them have the same name.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        if len(self._by_name) != len(checkpoints):
            raise CheckpointError("two checkpoints have the same name; serve one of them")

    @classmethod
    def load(cls, references: Sequence[str], *, device: str) -> "Models":
        """Load checkpoints from folders or by the names of bundled ones.

        Raises:
            CheckpointError: One of them cannot be loaded.
        """
        return cls([load_checkpoint(reference, device=device) for reference in references])

    def get(self, name: str | None) -> Checkpoint:
        """The checkpoint of that name, or the default one.

        Raises:
            ModelNotFoundError: None has that name.
        """
        if name is None:
            return self.all()[0]
        if name not in self._by_name:
            raise ModelNotFoundError(
                f"no such model is served; the names are {', '.join(self._by_name)}"
            )
        return self._by_name[name]

    def all(self) -> list[Checkpoint]:
        """Every checkpoint, the default first."""
        return list(self._by_name.values())

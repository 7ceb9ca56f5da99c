"""The manifest of a checkpoint, `gradmem.json`, and the folders in which checkpoints are found."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradmem_core.checkpoints.calibration import Calibration
from gradmem_core.checkpoints.external_backbone import ExternalBackbone
from gradmem_core.checkpoints.fingerprint import digest_settings
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model_files import read_json
from gradmem_core.tokenizer import ABSENT, QUERY

FILE = "gradmem.json"
FORMAT_VERSION = 3
BUNDLED = Path(__file__).parents[1] / "bundled"


class Task(BaseModel):
    """The task that a checkpoint was trained for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    "Name of the training task."
    purpose: str = ""
    "Uses that the checkpoint is and is not suited for, in a sentence or two; may be empty."
    stop_tokens: list[str] = Field(min_length=1)
    "Tokens that end an answer; they are not part of it."
    query_template: str = QUERY
    """Input of READ for a query, with `{query}` in its place. Names of the tokenizer's special
    tokens are special tokens in the template, and plain characters in a query."""
    absent_answer: str | None = None
    """Answer to a query that the text does not answer, with the tokens that end it; None where the
    checkpoint was not trained to give it."""
    continuation_prompt: str | None = None
    """Prompt before words of the text that READ is to continue; None where the checkpoint was not
    trained to continue a text."""
    document_format: Literal["text", "records"] = "text"
    """Form of a document: any text of the vocabulary, or a list of records (lines of key and value,
    see `gradmem_core/texts/records.py`), whose queries are keys."""
    example_document: str
    "A document as the checkpoint expects it."
    example_query: str
    "A query about that document."
    example_answer: str
    "The right answer to the query."


class Manifest(BaseModel):
    """The contents of `gradmem.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    name: str
    fingerprint: str
    settings_sha256: str | None = None
    "Digest of the settings, see `digest_settings`; None in formats 1 and 2, which need none."
    memory: MemoryConfig
    task: Task
    calibration: Calibration | None = None
    "Calibration of confidence; None for the mean probability of an answer's tokens."
    backbone: ExternalBackbone | None = None
    "The backbone that the checkpoint names; None where it holds its own."


def find_checkpoint(reference: str | Path) -> Path:
    """Return the folder of a checkpoint, given by its path or by the name of a bundled one.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    for folder in (Path(reference), BUNDLED / reference):
        if (folder / FILE).is_file():
            return folder
    bundled = ", ".join(list_bundled()) or "none"
    raise CheckpointError(
        f"there is no checkpoint {str(reference)!r}: give a folder with a gradmem.json, or a"
        f" bundled name ({bundled})"
    )


def list_bundled() -> list[str]:
    """Return the names of the checkpoints in the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{FILE}"))


def read_manifest(folder: Path) -> Manifest:
    """Read and check `gradmem.json`.

    Raises:
        CheckpointError: The file is missing or damaged, has a later format version, or its settings
            do not match their digest.
    """
    fields = read_json(folder / FILE)
    version = fields.get("format_version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise CheckpointError(
            f"{folder} has format version {version}; this GradMem reads 1 to {FORMAT_VERSION}"
        )
    try:
        migrated = _migrate_version_1(fields) if version == 1 else fields
        manifest = Manifest.model_validate(migrated)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        detail = _describe_first(error) if isinstance(error, ValidationError) else repr(error)
        raise CheckpointError(f"{FILE} of {folder} cannot be read: {detail}") from error
    has_digest = version == FORMAT_VERSION or manifest.settings_sha256 is not None
    if has_digest and manifest.settings_sha256 != digest_settings(folder, fields):
        raise CheckpointError(
            f"the settings of {folder} do not match their digest in {FILE}: the file or the"
            " tokenizer's was damaged or changed; fetch the checkpoint again"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `gradmem.json` in the latest format, with the digest of its settings.

    Args:
        folder: The checkpoint, with its tokenizer.
        manifest: Its manifest; version and digest are set here.
    """
    latest = manifest.model_copy(update={"format_version": FORMAT_VERSION})
    fields = latest.model_dump(mode="json")
    fields["settings_sha256"] = digest_settings(folder, fields)
    (folder / FILE).write_text(json.dumps(fields, indent=2) + "\n")


def _migrate_version_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert format 1, whose adapters are all on at WRITE alone, to format 2."""
    memory = dict(fields["memory"])
    rank = memory.pop("write_lora_rank", None)
    adapter = None if rank is None else {"rank": rank, "phases": "write"}
    task = dict(fields["task"])
    if task.get("document_format") == "records":
        task["absent_answer"] = ABSENT
    return {**fields, "memory": memory | {"adapter": adapter}, "task": task}


def _describe_first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"

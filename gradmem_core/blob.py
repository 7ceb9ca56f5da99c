"""A memory as bytes: one safetensors string with the tensor and what is known of it.

A blob is as secret as its document: it answers questions about it. The fields are described in
`docs/FORMATS.md`.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gradmem_core.config import BlobDtype
from gradmem_core.errors import BlobError, FingerprintMismatchError

FORMAT_VERSION = 3
INT8_LARGEST = 127
UNREADABLE = (
    SafetensorError,
    ValidationError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
)
"What the libraries raise on bytes that are no memory; the last on JSON nested without end."


class ReadBack(BaseModel):
    """Text that READ gave back of a page, see `gradmem_core/writing/verification.py`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(ge=0)
    "Words of the text that READ was asked for; 0 where the page was too short to ask."
    right: int = Field(ge=0)
    "Those that it said in their places."
    weak_lines: tuple[int, ...] = ()
    "Lines of the document, from 1, of which less than half came back."

    @property
    def share(self) -> float | None:
        """The share that came back, 0 to 1; None where nothing was asked."""
        return self.right / self.words if self.words else None


class PageInfo(BaseModel):
    """What is known of a page: the vectors of one WRITE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    "Its name within the memory."
    write_steps: int = Field(ge=1)
    "Gradient steps made (K)."
    tokens: int = Field(ge=1)
    "Tokens of what was written."
    records: int | None = Field(default=None, ge=1)
    "Records among them; None for a text."
    document_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    "SHA-256 of the UTF-8 bytes of the document that the page is of."
    losses: tuple[float, ...]
    "Reconstruction loss before each step and after the last, nats per token."
    write_accuracy: float = Field(ge=0, le=1)
    """Share of the page's tokens that WRITE predicts from the memory and the tokens before them,
    which is not what READ can say."""
    first_line: int | None = Field(default=None, ge=1)
    "First line of the document that is on the page, from 1; None where lines were not counted."
    last_line: int | None = Field(default=None, ge=1)
    "Last line."
    read_back: ReadBack | None = None
    "What READ gave back of it; None where it was not asked."
    created_at: datetime
    "When it was written, UTC."


class BlobInfo(BaseModel):
    """What is known of a memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    "Fingerprint of the checkpoint that wrote it."
    pages: tuple[PageInfo, ...] = Field(min_length=1)
    "In the order in which they were written."


@dataclass(frozen=True)
class Blob:
    """A memory with what is known of it."""

    memory: Tensor
    "Float32 `(p, m, d)`: `p` pages of `m` vectors."
    dtype: BlobDtype
    "How the bytes hold the elements."
    info: BlobInfo


def pack(memory: Tensor, info: BlobInfo, *, dtype: BlobDtype = "float32") -> bytes:
    """Make the bytes of a memory.

    Args:
        memory: Finite, `(p, m, d)`.
        info: What is known of it, with an entry for each page.
        dtype: `float32` keeps every bit, `float16` halves the bytes, `int8` quarters them with one
            scale for each vector.

    Raises:
        BlobError: The memory is not finite, too large for float16, or of another number of pages.
    """
    memory = memory.detach().to("cpu", torch.float32).contiguous()
    if not memory.isfinite().all():
        raise BlobError("the memory is not finite and cannot be stored")
    if memory.ndim != 3 or len(memory) != len(info.pages):
        raise BlobError(f"a memory of shape {list(memory.shape)} is not {len(info.pages)} pages")
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "dtype": dtype,
        "shape": json.dumps(list(memory.shape)),
        "info": info.model_dump_json(),
    }
    return save(_encoded(memory, dtype), metadata)


def unpack(data: bytes) -> Blob:
    """Read a memory from its bytes.

    Raises:
        BlobError: The bytes are not a memory, are damaged, or are of a later format.
    """
    try:
        metadata = _metadata(data)
        version, tensors = metadata["format_version"], load(data)
        shape, fields = json.loads(metadata["shape"]), json.loads(metadata["info"])
        if version == "1":
            tensors, shape, fields = _as_one_page(tensors, shape, fields)
        if version in ("1", "2"):
            fields = _of_version_2(fields)
        elif version != str(FORMAT_VERSION):
            raise BlobError(
                f"the memory has format version {version}; this GradMem reads 1 to {FORMAT_VERSION}"
            )
        memory = _decoded(tensors, metadata["dtype"])
        if list(memory.shape) != shape or not memory.isfinite().all():
            raise BlobError("the memory's tensor does not fit its description")
        info = BlobInfo.model_validate_json(json.dumps(fields))
        if len(memory) != len(info.pages):
            raise BlobError("the memory's pages are not those of its description")
    except UNREADABLE as error:
        raise BlobError(f"the bytes are not a memory blob: {type(error).__name__}") from error
    return Blob(memory, metadata["dtype"], info)  # type: ignore[arg-type]  # _decoded checked it


def count_tensor_bytes(memory: Tensor, dtype: BlobDtype) -> int:
    """Bytes that a memory's tensors take in a blob, without what is known of it.

    Args:
        memory: Finite, `(p, m, d)`.
        dtype: As for `pack`.

    Raises:
        BlobError: The memory is too large for float16.
    """
    return sum(tensor.nbytes for tensor in _encoded(memory, dtype).values())


def check_fingerprint(blob: Blob, expected: str) -> None:
    """Refuse a memory that another checkpoint wrote.

    Raises:
        FingerprintMismatchError: The fingerprints differ; the error names both.
    """
    found = blob.info.fingerprint
    if found != expected:
        raise FingerprintMismatchError(
            f"the memory was written by checkpoint {found} and cannot be read by {expected};"
            " write the document again",
            expected=expected,
            found=found,
        )


def _as_one_page(
    tensors: dict[str, Tensor], shape: list[int], fields: dict[str, Any]
) -> tuple[dict[str, Tensor], list[int], dict[str, Any]]:
    """Say what format 1, which knew no pages, says in terms of format 2."""
    page = {**fields, "page_id": "0" * 16}
    info = {"fingerprint": page.pop("fingerprint"), "pages": [page]}
    return {name: tensor[None] for name, tensor in tensors.items()}, [1, *shape], info


def _of_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """Say what format 2, whose `recall` was WRITE's accuracy, says in terms of format 3."""
    pages = [dict(page) for page in fields["pages"]]
    for page in pages:
        page["write_accuracy"] = page.pop("recall")
    return {**fields, "pages": pages}


def quantize(memory: Tensor, dtype: BlobDtype) -> Tensor:
    """Return a memory `(p, m, d)` as it comes back from a blob, float32.

    Raises:
        BlobError: It is too large for float16.
    """
    return _decoded(_encoded(memory.detach().float().cpu(), dtype), dtype)


def _encoded(memory: Tensor, dtype: BlobDtype) -> dict[str, Tensor]:
    if dtype == "int8":
        scales = memory.abs().amax(dim=2, keepdim=True) / INT8_LARGEST  # (p, m, 1)
        steps = memory / scales.clamp(min=torch.finfo(torch.float32).tiny)
        return {"memory": steps.round().clamp(-INT8_LARGEST, INT8_LARGEST).char(), "scales": scales}
    if dtype == "float16":
        half = memory.half()
        if not half.isfinite().all():
            raise BlobError("the memory has elements beyond float16's range; store it as float32")
        return {"memory": half}
    return {"memory": memory}


def _decoded(tensors: dict[str, Tensor], dtype: str) -> Tensor:
    expected = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
    memory = tensors["memory"]
    if memory.dtype != expected[dtype] or memory.ndim != 3:
        raise BlobError(f"the memory's tensor is {memory.dtype}, its description says {dtype}")
    if dtype != "int8":
        return memory.float()
    scales = tensors["scales"]
    if scales.shape != (*memory.shape[:2], 1) or scales.dtype != torch.float32:
        raise BlobError("the memory's scales do not fit its tensor")
    return memory.float() * scales


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors string, which its library reads from files only."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise BlobError("the bytes are not a memory blob: they are cut short")
    header = json.loads(data[8 : 8 + size])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata

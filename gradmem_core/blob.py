"""Memory blobs: a memory and its description as one safetensors byte string.

A blob is as confidential as its document, since it answers questions about it. `docs/FORMATS.md`
describes the fields.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gradmem_core.config import BlobDtype
from gradmem_core.errors import BlobError, FingerprintMismatchError
from gradmem_core.tenants import DEFAULT_TENANT, TENANT_PATTERN

FORMAT_VERSION = 3
INT8_LARGEST = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"Scale of a vector of zeros or of elements near the smallest normal float32."
LARGEST_SCALE = torch.finfo(torch.float32).max * (1 - 2**-23) / INT8_LARGEST
"Just below the largest float32 divided by INT8_LARGEST, so that decoding does not overflow."
LARGEST_COUNT = 2**53
"Largest integer of a description: JavaScript's, and sums of pages stay floating-point numbers."
UNREADABLE = (
    SafetensorError,
    ValidationError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RecursionError,
    RuntimeError,
)
"""Errors of the libraries on bytes that are not a memory; RecursionError on deeply nested JSON,
RuntimeError on shapes beyond torch's."""

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Loss = Annotated[
    float, Field(ge=-torch.finfo(torch.float32).max, le=torch.finfo(torch.float32).max)
]


class ReadBack(BaseModel):
    """The words of a page that READ recalls right after WRITE (`gradmem_core/writing`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(ge=0, le=LARGEST_COUNT)
    "Words of the page that READ was asked for; 0 where the page is too short for a question."
    right: int = Field(ge=0, le=LARGEST_COUNT)
    "Words that READ gave in the right places."
    weak_lines: tuple[Count, ...] = ()
    "Lines of the document, from 1, of which READ recalled less than half."

    @model_validator(mode="after")
    def _check_right(self) -> Self:
        if self.right > self.words:
            raise ValueError("more words are right than were asked for")
        return self

    @property
    def share(self) -> float | None:
        """Share of the words that READ recalled, 0 to 1; None where it was asked for none."""
        return self.right / self.words if self.words else None


class PageInfo(BaseModel):
    """The description of a page: the vectors of one WRITE."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    page_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    "Identifier of the page within the memory."
    write_steps: Count
    "Gradient steps made (K)."
    tokens: Count
    "Tokens of the page."
    records: Count | None = None
    "Records on the page; None for a text."
    document_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    "SHA-256 of the UTF-8 bytes of the page's document."
    losses: tuple[Loss, ...] = Field(min_length=1)
    "Reconstruction loss before each step and after the last, nats per token."
    write_accuracy: float = Field(ge=0, le=1)
    """Share of the page's tokens that are predicted correctly from the memory and the true tokens
    before them. It says little about READ, which gets no true tokens."""
    first_line: Count | None = None
    "Line of the document, from 1, on which the page starts; None where lines were not counted."
    last_line: Count | None = None
    "Line of the document on which the page ends."
    read_back: ReadBack | None = None
    "Result of reading the page back; None where it was not read back."
    created_at: AwareDatetime
    "Time of the WRITE, UTC."


class BlobInfo(BaseModel):
    """The description of a memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    "Fingerprint of the checkpoint that wrote it."
    pages: tuple[PageInfo, ...] = Field(min_length=1)
    "Pages in the order in which they were written; a page that was replaced keeps its place."
    tenant: str = Field(default=DEFAULT_TENANT, pattern=TENANT_PATTERN)
    "Tenant to whom the memory belongs."


@dataclass(frozen=True)
class Blob:
    """A memory with its description."""

    memory: Tensor
    "Float32 `(p, m, d)`: `p` pages of `m` vectors."
    dtype: BlobDtype
    "Type of the elements in the bytes."
    info: BlobInfo


def pack(memory: Tensor, info: BlobInfo, *, dtype: BlobDtype = "float32") -> bytes:
    """Serialize a memory.

    Args:
        memory: Finite, `(p, m, d)`.
        info: Its description, with an entry for each page.
        dtype: `float32` keeps every bit, `float16` halves the bytes, `int8` quarters them with one
            scale for each vector.

    Raises:
        BlobError: The memory is not finite, is too large for float16, or has another number of
            pages than `info`.
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
        "info": _dump_info(info),
    }
    return save(_encode(memory, dtype), metadata)


def unpack(data: bytes) -> Blob:
    """Deserialize a memory.

    Raises:
        BlobError: The bytes are not a memory, are damaged, or have a later format version.
    """
    try:
        metadata = _read_metadata(data)
        version, tensors = metadata["format_version"], load(data)
        shape, description = json.loads(metadata["shape"]), metadata["info"]
        if version in ("1", "2"):
            fields = json.loads(description)
            if version == "1":
                tensors, shape, fields = _migrate_version_1(tensors, shape, fields)
            description = json.dumps(_migrate_version_2(fields))
        elif version != str(FORMAT_VERSION):
            raise BlobError(
                f"the memory has format version {version}; this GradMem reads 1 to {FORMAT_VERSION}"
            )
        memory = _decode(tensors, metadata["dtype"])
        if list(memory.shape) != shape or not memory.isfinite().all():
            raise BlobError("the tensor of the memory does not match its description")
        info = BlobInfo.model_validate_json(description)
        if len(memory) != len(info.pages):
            raise BlobError(f"the memory has {len(memory)} pages and describes {len(info.pages)}")
    except UNREADABLE as error:
        raise BlobError(f"the bytes are not a memory blob: {type(error).__name__}") from error
    return Blob(memory, metadata["dtype"], info)  # type: ignore[arg-type]  # _decode checked it


def _dump_info(info: BlobInfo) -> str:
    """Return the JSON of a description; the default tenant is left out, as before tenants."""
    left_out = {"tenant"} if info.tenant == DEFAULT_TENANT else None
    return info.model_dump_json(exclude=left_out)


def count_tensor_bytes(memory: Tensor, dtype: BlobDtype) -> int:
    """Count the bytes of a memory's tensors in a blob, without its description.

    Args:
        memory: Finite, `(p, m, d)`.
        dtype: Type of the elements, see `pack`.

    Raises:
        BlobError: The memory is too large for float16.
    """
    return sum(tensor.nbytes for tensor in _encode(memory, dtype).values())


def check_fingerprint(blob: Blob, expected: str) -> None:
    """Refuse a memory that another checkpoint wrote.

    Raises:
        FingerprintMismatchError: The fingerprints differ; the error names both.
    """
    actual = blob.info.fingerprint
    if actual != expected:
        raise FingerprintMismatchError(
            f"the memory was written by checkpoint {actual} and cannot be read by {expected};"
            " write the document again",
            expected=expected,
            actual=actual,
        )


def check_shape(blob: Blob, *, vectors: int, width: int) -> None:
    """Refuse a memory whose pages are not those of the checkpoint that it names.

    Args:
        blob: The memory.
        vectors: Vectors of a page of the checkpoint (m).
        width: Width of its backbone (d).

    Raises:
        BlobError: The pages have another shape.
    """
    if blob.memory.shape[1:] != (vectors, width):
        actual = " x ".join(map(str, blob.memory.shape[1:]))
        raise BlobError(
            f"the memory's pages are {actual} and those of its checkpoint {vectors} x {width};"
            " write the document again"
        )


def _migrate_version_1(
    tensors: dict[str, Tensor], shape: list[int], fields: dict[str, Any]
) -> tuple[dict[str, Tensor], list[int], dict[str, Any]]:
    """Convert format 1, in which a memory has no pages, to format 2."""
    page = {**fields, "page_id": "0" * 16}
    info = {"fingerprint": page.pop("fingerprint"), "pages": [page]}
    return {name: tensor[None] for name, tensor in tensors.items()}, [1, *shape], info


def _migrate_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert format 2, in which `write_accuracy` is called `recall`, to format 3."""
    pages = [dict(page) for page in fields["pages"]]
    for page in pages:
        page["write_accuracy"] = page.pop("recall")
    return {**fields, "pages": pages}


def quantize(memory: Tensor, dtype: BlobDtype) -> Tensor:
    """Return a memory `(p, m, d)` as a blob returns it, float32.

    Raises:
        BlobError: The memory is too large for float16.
    """
    return _decode(_encode(memory.detach().float().cpu(), dtype), dtype)


def _encode(memory: Tensor, dtype: BlobDtype) -> dict[str, Tensor]:
    if dtype == "int8":
        peaks = memory.abs().amax(dim=2, keepdim=True)  # (p, m, 1)
        scales = (peaks / INT8_LARGEST).clamp(SMALLEST_SCALE, LARGEST_SCALE)
        levels = (memory / scales).round().clamp(-INT8_LARGEST, INT8_LARGEST)
        return {"memory": levels.char(), "scales": scales}
    if dtype == "float16":
        half = memory.half()
        if not half.isfinite().all():
            raise BlobError("the memory has elements outside float16's range; store it as float32")
        return {"memory": half}
    return {"memory": memory}


def _decode(tensors: dict[str, Tensor], dtype: str) -> Tensor:
    expected = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
    if tensors.keys() != ({"memory", "scales"} if dtype == "int8" else {"memory"}):
        raise BlobError(f"the blob has the tensors {', '.join(sorted(tensors))}")
    memory = tensors["memory"]
    if memory.dtype != expected[dtype] or memory.ndim != 3 or 0 in memory.shape:
        raise BlobError(f"the tensor of the memory is {memory.dtype}, its description says {dtype}")
    if dtype != "int8":
        return memory.float()
    scales = tensors["scales"]
    if scales.shape != (*memory.shape[:2], 1) or scales.dtype != torch.float32:
        raise BlobError("the scales of the memory do not match its tensor")
    return memory.float() * scales


def _read_metadata(data: bytes) -> dict[str, str]:
    """Read the metadata of a safetensors string, which the library reads from files only."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise BlobError("the bytes are not a memory blob: they are truncated")
    header = json.loads(data[8 : 8 + size])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata

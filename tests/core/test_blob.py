"""Memory blobs: round trips, and damage of every kind."""

import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from gradmem_core.blob import Blob, BlobInfo, PageInfo, check_fingerprint, pack, unpack
from gradmem_core.config import BlobDtype
from gradmem_core.errors import BlobError, FingerprintMismatchError

PAGE = PageInfo(
    page_id="0123456789abcdef",
    write_steps=5,
    tokens=12,
    document_sha256="0" * 64,
    losses=(3.5, 0.1),
    write_accuracy=0.75,
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)
INFO = BlobInfo(fingerprint="f" * 64, pages=(PAGE,))
DTYPES: tuple[BlobDtype, ...] = ("float32", "float16", "int8")
FLOAT32 = torch.finfo(torch.float32)
MEMORY = torch.linspace(-2, 3, 12).view(1, 3, 4)


def memories(largest: float) -> st.SearchStrategy[Tensor]:
    """One page of 1 to 4 rows and columns, subnormal numbers and both zeros among them."""
    number = st.floats(-largest, largest, width=32)

    def matrix(shape: tuple[int, int]) -> st.SearchStrategy[Tensor]:
        rows, columns = shape
        row = st.lists(number, min_size=columns, max_size=columns)
        return st.lists(row, min_size=rows, max_size=rows).map(lambda page: torch.tensor([page]))

    return st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(matrix)


pages = st.builds(
    PageInfo,
    page_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    records=st.none() | st.integers(1, 10**6),
    write_steps=st.integers(1, 10**6),
    tokens=st.integers(1, 10**9),
    document_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    losses=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8
    ).map(tuple),
    write_accuracy=st.floats(0, 1),
    created_at=st.datetimes(timezones=st.just(UTC)),
)
infos = st.builds(
    BlobInfo,
    fingerprint=st.text(max_size=70),
    pages=st.lists(pages, min_size=1, max_size=3).map(tuple),
)


@given(memories(FLOAT32.max), infos)
def test_float32_keeps_every_bit_and_every_field(memory: Tensor, info: BlobInfo) -> None:
    memory = memory.expand(len(info.pages), -1, -1)
    blob = unpack(pack(memory, info))
    assert blob.memory.dtype == torch.float32
    assert torch.equal(blob.memory.view(torch.int32), memory.contiguous().view(torch.int32))
    assert blob.info == info
    assert blob.dtype == "float32"


@given(memories(65504.0))
def test_float16_is_within_half_precision(memory: Tensor) -> None:
    blob = unpack(pack(memory, INFO, dtype="float16"))
    error = (blob.memory.double() - memory.double()).abs()
    assert (error <= (memory.double().abs() * 2**-11).clamp(min=2**-25)).all()
    assert (blob.dtype, blob.info) == ("float16", INFO)


@given(memories(FLOAT32.max))
@example(torch.tensor([[[6.6e-38, -3e-38]]]))
@example(torch.tensor([[[FLOAT32.smallest_normal, 2**-149]]]))
@example(torch.tensor([[[2**-149, 0.0]]]))
@example(torch.tensor([[[3e38, -FLOAT32.max, 1e38]]]))
def test_int8_is_within_half_a_scale(memory: Tensor) -> None:
    blob = unpack(pack(memory, INFO, dtype="int8"))
    scale = memory.double().abs().amax(dim=2, keepdim=True) / 127
    error = (blob.memory.double() - memory.double()).abs()
    assert (error <= scale.clamp(min=FLOAT32.smallest_normal) * (0.5 + 1e-4)).all()
    assert (blob.dtype, blob.info) == ("int8", INFO)


def test_smaller_kinds_take_fewer_bytes() -> None:
    memory = torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
    sizes = [len(pack(memory, INFO, dtype=dtype)) for dtype in DTYPES]
    assert sizes[0] - sizes[1] == pytest.approx(8 * 128 * 2, abs=64)
    assert sizes[1] - sizes[2] == pytest.approx(8 * 128, abs=256)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_memory_that_is_not_finite_is_refused(dtype: BlobDtype, value: float) -> None:
    with pytest.raises(BlobError, match="not finite"):
        pack(torch.tensor([[[1.0, value]]]), INFO, dtype=dtype)


def test_what_float16_cannot_hold_is_refused() -> None:
    pack(torch.tensor([[[65504.0]]]), INFO, dtype="float16")
    with pytest.raises(BlobError, match="float16's range"):
        pack(torch.tensor([[[65520.0]]]), INFO, dtype="float16")


def test_a_memory_with_a_gradient_can_be_packed() -> None:
    assert torch.equal(unpack(pack(MEMORY.clone().requires_grad_(), INFO)).memory, MEMORY)


def test_another_fingerprint_is_refused_and_both_are_named() -> None:
    blob = Blob(MEMORY, "float32", INFO)
    check_fingerprint(blob, "f" * 64)
    with pytest.raises(FingerprintMismatchError) as caught:
        check_fingerprint(blob, "e" * 64)
    assert (caught.value.actual, caught.value.expected) == ("f" * 64, "e" * 64)
    assert "f" * 64 in caught.value.message
    assert "e" * 64 in caught.value.message


# Damage


def unpacked_or_refused(data: bytes) -> None:
    """A changed element may pass; any error must be ours."""
    try:
        blob = unpack(data)
    except BlobError:
        return
    assert blob.memory.isfinite().all()
    assert blob.memory.dtype == torch.float32


@given(st.binary(max_size=200))
@example(struct.pack("<Q", 2**64 - 1))
@example(b"")
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BlobError):
        unpack(data)


@given(st.binary(max_size=200))
def test_random_headers_are_refused(header: bytes) -> None:
    with pytest.raises(BlobError):
        unpack(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_truncation_is_refused(dtype: BlobDtype) -> None:
    data = pack(MEMORY, INFO, dtype=dtype)
    for end in range(len(data)):
        with pytest.raises(BlobError):
            unpack(data[:end])
    with pytest.raises(BlobError):
        unpack(data + b"\0")


@given(st.sampled_from(DTYPES), st.data())
def test_changed_bytes_give_a_memory_or_our_error(dtype: BlobDtype, data: st.DataObject) -> None:
    damaged = bytearray(pack(MEMORY, INFO, dtype=dtype))
    position = st.integers(0, len(damaged) - 1)
    for at, value in data.draw(st.dictionaries(position, st.integers(0, 255), max_size=4)).items():
        damaged[at] = value
    unpacked_or_refused(bytes(damaged))


def rewritten(change: Callable[[dict[str, Any]], Any], dtype: BlobDtype = "float32") -> bytes:
    """Return a blob whose header was changed."""
    data = pack(MEMORY, INFO, dtype=dtype)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + size :]


def with_metadata(**fields: Any) -> bytes:
    return rewritten(lambda header: header["__metadata__"].update(fields))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["format_version", "dtype", "shape", "info"]), json_values)
def test_changed_metadata_gives_a_memory_or_our_error(field: str, value: Any) -> None:
    unpacked_or_refused(with_metadata(**{field: value}))
    unpacked_or_refused(with_metadata(**{field: json.dumps(value)}))


@given(st.sampled_from(sorted(BlobInfo.model_fields)), json_values)
def test_a_changed_field_gives_a_memory_or_our_error(field: str, value: Any) -> None:
    fields = json.loads(INFO.model_dump_json()) | {field: value}
    unpacked_or_refused(with_metadata(info=json.dumps(fields)))
    unpacked_or_refused(with_metadata(info=json.dumps(fields), format_version="1"))


@given(st.sampled_from(sorted(PageInfo.model_fields)), json_values)
def test_a_changed_field_of_a_page_gives_a_memory_or_our_error(field: str, value: Any) -> None:
    page = json.loads(PAGE.model_dump_json()) | {field: value}
    fields = {"fingerprint": "f" * 64, "pages": [page]}
    unpacked_or_refused(with_metadata(info=json.dumps(fields)))


@given(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values)
def test_a_changed_tensor_gives_a_memory_or_our_error(field: str, value: Any) -> None:
    unpacked_or_refused(rewritten(lambda header: header["memory"].update({field: value})))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_nested_without_end_is_refused(text: str) -> None:
    for data in (struct.pack("<Q", len(text)) + text.encode(), with_metadata(shape=text)):
        with pytest.raises(BlobError):
            unpack(data)


def test_a_later_format_is_refused_with_both_versions() -> None:
    with pytest.raises(BlobError, match="format version 4; this GradMem reads 1 to 3"):
        unpack(with_metadata(format_version="4"))


def page_before_format_3() -> dict[str, object]:
    """PAGE as format 2 had it: WRITE's accuracy was called recall."""
    fields = {"page_id", "write_steps", "tokens", "document_sha256", "losses", "created_at"}
    page = json.loads(PAGE.model_dump_json(include=fields))
    return {**page, "recall": PAGE.write_accuracy}


def test_a_memory_of_format_2_knows_writes_accuracy() -> None:
    info = json.dumps({"fingerprint": "f" * 64, "pages": [page_before_format_3()]})
    assert unpack(with_metadata(info=info, format_version="2")).info == INFO


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_memory_of_format_1_is_one_page(dtype: BlobDtype) -> None:
    blob = unpack(pack(MEMORY, INFO, dtype=dtype))
    page = page_before_format_3()
    del page["page_id"]
    metadata = {
        "format_version": "1",
        "dtype": dtype,
        "shape": json.dumps([3, 4]),
        "info": json.dumps({"fingerprint": "f" * 64, **page}),
    }
    tensors = {name: pages[0] for name, pages in load(pack(MEMORY, INFO, dtype=dtype)).items()}
    old = unpack(save(tensors, metadata))
    assert torch.equal(old.memory, blob.memory)
    assert old.info == BlobInfo(
        fingerprint="f" * 64, pages=(PAGE.model_copy(update={"page_id": "0" * 16}),)
    )


def test_as_many_pages_as_are_described() -> None:
    for memory in (MEMORY[0], MEMORY.expand(2, -1, -1)):
        with pytest.raises(BlobError, match="not 1 pages"):
            pack(memory, INFO)
    two = BlobInfo(fingerprint="f" * 64, pages=(PAGE, PAGE))
    with pytest.raises(BlobError, match="has 1 pages and describes 2"):
        unpack(with_metadata(info=two.model_dump_json()))


@pytest.mark.parametrize("field", ["format_version", "dtype", "shape", "info"])
def test_a_missing_field_is_refused(field: str) -> None:
    with pytest.raises(BlobError):
        unpack(rewritten(lambda header: header["__metadata__"].pop(field)))


def test_an_unknown_field_is_refused() -> None:
    fields = json.loads(INFO.model_dump_json()) | {"colour": "red"}
    with pytest.raises(BlobError):
        unpack(with_metadata(info=json.dumps(fields)))


def test_a_description_of_another_memory_is_refused() -> None:
    with pytest.raises(BlobError, match="does not match"):
        unpack(with_metadata(shape="[1, 4, 3]"))
    with pytest.raises(BlobError, match="description says float16"):
        unpack(with_metadata(dtype="float16"))


def test_elements_that_are_not_finite_are_refused() -> None:
    data = pack(MEMORY, INFO)
    with pytest.raises(BlobError):
        unpack(data[:-4] + struct.pack("<f", math.nan))

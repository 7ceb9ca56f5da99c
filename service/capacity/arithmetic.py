"""The arithmetic of a checkpoint: floating-point operations of WRITE and READ, and bytes stored.

A multiply-add counts as two operations, and only matrix products count, as in torch's
`FlopCounterMode`. Letters: `T` tokens of a page, `m` memory vectors, `d` width, `V` vocabulary.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import torch

from gradmem_core.attention.blocks import BLOCK
from gradmem_core.blob import BlobInfo, PageInfo, ReadBack
from gradmem_core.blob import pack as pack_blob
from gradmem_core.checkpoints.manifest import Manifest, find_checkpoint, read_manifest
from gradmem_core.config import BlobDtype, MemoryConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model_files import read_json
from gradmem_core.reading.answers import CANDIDATES
from service.stores.record_format import StoredMemory
from service.stores.record_format import pack as pack_record

SECOND_ORDER = 3
"""Operations of a WRITE step that meta-training differentiates, in multiples of a served one: a
linear layer's two products become six (its gradient, and that of both with respect to the inputs
and the weights)."""
PRODUCTS_FORWARD = 2
"Matrix products of attention, `(rows, columns, width of a head)` each."
PRODUCTS_BACKWARD = 5
"The same of its gradient, which computes the scores again (gradmem_core/attention/blocks.py)."


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a checkpoint that its arithmetic needs."""

    name: str
    layers: int
    width: int
    inner: int
    "Width inside a layer's gated MLP."
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int
    memory: MemoryConfig
    preselects: bool
    "True if pages are ranked before any answers: the checkpoint is calibrated."
    reads_back: bool
    "True if WRITE reads its pages back."

    @classmethod
    def load(cls, reference: str | Path) -> Self:
        """Read the sizes of a checkpoint, a folder or a bundled name; no weights are loaded.

        Raises:
            CheckpointError: There is none, or its backbone has no gated MLPs as Llama's.
        """
        folder = find_checkpoint(reference)
        manifest = read_manifest(folder)
        config = read_json(_backbone_folder(folder, manifest) / "config.json")
        if config.get("model_type") != "llama":
            raise CheckpointError(
                f"the plan counts backbones of the type llama, and {manifest.name} has"
                f" {config.get('model_type')!r}"
            )
        heads = config["num_attention_heads"]
        return cls(
            name=manifest.name,
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            inner=config["intermediate_size"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            memory=manifest.memory,
            preselects=manifest.calibration is not None,
            reads_back=manifest.task.continuation_prompt is not None,
        )

    @property
    def position_flop(self) -> int:
        """Operations of the linear layers for one position, forward."""
        queries = self.heads * self.head_width
        keys = self.key_value_heads * self.head_width
        attention = self.width * (2 * queries + 2 * keys)
        return 2 * self.layers * (attention + 3 * self.width * self.inner)

    @property
    def head_flop(self) -> int:
        """Operations of the output head for one position."""
        return 2 * self.width * self.vocabulary

    @property
    def memory_flop(self) -> int:
        """Operations of the memory projection for a page's memory."""
        used = self.memory.memory_projection
        return 2 * self.memory.memory_tokens * self.width**2 if used else 0

    def gradient_step_flop(self, tokens: int) -> int:
        """Return the operations of one gradient step of a page: forward, and back to the memory.

        The weights are frozen, so that a linear layer's gradient is one product as well.

        Args:
            tokens: Tokens of the page (T).
        """
        weighing = 2 * tokens * self.width if self.memory.token_weights else 0
        products = PRODUCTS_FORWARD + PRODUCTS_BACKWARD
        return (
            2 * self._linear_flop(tokens)
            + products * self._attention_product(self.memory.memory_tokens + tokens)
            + weighing
        )

    def scoring_flop(self, tokens: int) -> int:
        """Return the operations of the forward pass that scores a written page."""
        attention = self._attention_product(self.memory.memory_tokens + tokens)
        return self._linear_flop(tokens) + PRODUCTS_FORWARD * attention

    def write_flop(self, tokens: int, steps: int) -> int:
        """Return the operations of a page's WRITE.

        Args:
            tokens: Tokens of the page (T).
            steps: Gradient steps (K).
        """
        return steps * self.gradient_step_flop(tokens) + self.scoring_flop(tokens)

    def training_flop(self, tokens: int, steps: int) -> int:
        """Return the operations of a context's WRITE with its second-order gradient, at least.

        Attention's own second derivative and READ are left out.
        """
        return SECOND_ORDER * steps * self.gradient_step_flop(tokens)

    def prefill_flop(self) -> int:
        """Return the operations that turn a page's memory into keys and values."""
        vectors = self.memory.memory_tokens
        return vectors * self.position_flop + self._cached_attention(vectors, 0) + self.memory_flop

    def query_flop(self, tokens: int) -> int:
        """Return the operations of a query on one page, up to the answer's first token.

        A calibrated checkpoint also computes the probability of the query's own tokens.
        """
        positions = tokens if self.preselects else 1
        held = self.memory.memory_tokens
        linear = tokens * self.position_flop + positions * self.head_flop
        return linear + self._cached_attention(tokens, held)

    def token_flop(self, held: int) -> int:
        """Return the operations of one token of a page's answer.

        Args:
            held: Positions before it: memory, query and answer so far.
        """
        return self.position_flop + self.head_flop + self._cached_attention(1, held)

    def read_flop(self, pages: int, *, query_tokens: int, answer_tokens: int) -> int:
        """Return the operations of a query to a memory, its prefill apart.

        Args:
            pages: Pages of the memory.
            query_tokens: Tokens of the query, with its template.
            answer_tokens: Tokens of an answer, its end included.
        """
        answering = min(pages, CANDIDATES) if self.preselects else pages
        held = self.memory.memory_tokens + query_tokens + answer_tokens // 2
        later = answering * (answer_tokens - 1) * self.token_flop(held)
        return pages * self.query_flop(query_tokens) + later

    def pages_of(self, tokens: int) -> list[int]:
        """Return the tokens of each page of a document, as equal as they can be."""
        longest = self.memory.page_tokens or self.memory.max_context_tokens
        count = -(-tokens // longest)
        return [tokens // count + (page < tokens % count) for page in range(count)]

    def _linear_flop(self, tokens: int) -> int:
        """Return the operations of all linear layers for a page with its memory, forward."""
        positions = self.memory.memory_tokens + tokens
        return (
            positions * (self.position_flop + self._adapter_flop)
            + tokens * self.head_flop
            + self.memory_flop
        )

    @property
    def _adapter_flop(self) -> int:
        """Operations of adapters for one position; those of both phases are in the weights."""
        adapter = self.memory.adapter
        if adapter is None or adapter.phases == "both":
            return 0
        queries = self.heads * self.head_width
        keys = self.key_value_heads * self.head_width
        attention = 2 * (self.width + queries) + 2 * (self.width + keys)
        return 2 * self.layers * adapter.rank * (attention + 3 * (self.width + self.inner))

    def _attention_product(self, positions: int) -> int:
        """Return the operations of one product of attention in all layers, by blocks of rows."""
        entries = 0  # of the blocks' score matrices
        for start in range(0, positions, BLOCK):
            end = min(start + BLOCK, positions)
            entries += (end - start) * end
        return 2 * self.layers * self.heads * self.head_width * entries

    def _cached_attention(self, tokens: int, held: int) -> int:
        """Return the operations of attention over a cache, masked entries included."""
        entries = tokens * (held + tokens)
        return 2 * PRODUCTS_FORWARD * self.layers * self.heads * self.head_width * entries


def record_bytes(shape: ModelShape, tokens: int, dtype: BlobDtype, *, name: str | None) -> int:
    """Return the bytes of the record that a store keeps of a document's memory.

    It packs such a record; only the digits of its figures differ from a real one's.

    Args:
        shape: The checkpoint's.
        tokens: Tokens of the document.
        dtype: Type of the stored elements.
        name: Name of the memory, if it has one.
    """
    pages = shape.pages_of(tokens)
    now = datetime.now(UTC)
    infos = tuple(
        PageInfo(
            page_id="0" * 16,
            write_steps=shape.memory.write_steps,
            tokens=count,
            document_sha256="0" * 64,
            losses=(0.1234567890123456,) * (shape.memory.write_steps + 1),
            write_accuracy=0.9876543210987654,
            first_line=1,
            last_line=1,
            read_back=ReadBack(words=10, right=5) if shape.reads_back else None,
            created_at=now,
        )
        for count in pages
    )
    vectors = torch.zeros(len(pages), shape.memory.memory_tokens, shape.width)  # (p, m, d)
    blob = pack_blob(vectors, BlobInfo(fingerprint="0" * 64, pages=infos), dtype=dtype)
    stored = StoredMemory(
        memory_id="0" * 32, model=shape.name, metadata={}, created_at=now, name=name, blob=blob
    )
    return len(pack_record(stored))


def _backbone_folder(folder: Path, manifest: Manifest) -> Path:
    """Return the folder that describes a checkpoint's backbone."""
    named = manifest.backbone and manifest.backbone.path
    return folder / named if named else folder / "backbone"

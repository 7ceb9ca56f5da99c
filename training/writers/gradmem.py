"""GradMem itself, with and without the second-order term."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar

from torch import Tensor

from gradmem_core.blob import BlobInfo, PageInfo, count_tensor_bytes, pack, unpack
from gradmem_core.config import BlobDtype
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import ReadingRules
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling
from gradmem_core.reading.scoring import read_hidden
from gradmem_core.writing.descent import write
from gradmem_core.writing.stopping import write_until_settled
from training.writers.base import Writer, WriterState, WriteSteps

NO_METADATA = PageInfo(
    page_id="0" * 16,
    write_steps=1,
    tokens=1,
    document_sha256="0" * 64,
    losses=(0.0,),
    write_accuracy=0.0,
    created_at=datetime.fromtimestamp(0, UTC),
)
"The metadata of a blob that is read at once."


@dataclass(frozen=True)
class GradMem(Writer):
    """Writes by gradient descent; training differentiates through it."""

    kind: ClassVar[str] = "gradmem"
    second_order: ClassVar[bool] = True
    model: MemoryModel
    recompute: bool = False
    "Compute write steps and READ's blocks again for the gradient, instead of keeping their graphs."

    def write(
        self, context_ids: Tensor, lengths: Tensor, steps: WriteSteps, *, train: bool
    ) -> WriterState:
        """Write contexts (see `Writer.write`)."""
        if steps == "auto":
            return self._write_until_settled(context_ids, lengths)
        written = write(
            self.model,
            context_ids,
            lengths,
            steps,
            create_graph=train,
            second_order=self.second_order,
            recompute=self.recompute,
            measure=False,
        )
        memory = written.memory
        return WriterState((memory,), memory[0].numel(), write_loss=written.losses[:, -1])

    def _write_until_settled(self, context_ids: Tensor, lengths: Tensor) -> WriterState:
        most = self.model.config.max_write_steps
        settled = write_until_settled(self.model, context_ids, lengths, most)
        memory = settled.memory
        return WriterState((memory,), memory[0].numel(), settled.losses, settled.steps)

    def store(self, state: WriterState, dtype: BlobDtype) -> WriterState:
        """Return the state as a blob would keep it."""
        (memory,) = state.tensors
        info = BlobInfo(fingerprint="", pages=(NO_METADATA,) * len(memory))
        restored = unpack(pack(memory, info, dtype=dtype)).memory.to(memory.device)
        return replace(
            state, tensors=(restored,), stored_bytes=count_tensor_bytes(memory[:1], dtype)
        )

    def hidden(self, state: WriterState, query_ids: Tensor) -> Tensor:
        """Run queries through the backbone (see `Writer.hidden`)."""
        (memory,) = state.tensors
        with self.model.backbone.gradient_checkpointing() if self.recompute else nullcontext():
            return read_hidden(self.model, memory, query_ids)[:, :, 1:]

    def answer(
        self,
        state: WriterState,
        queries: Sequence[Sequence[list[int]]],
        *,
        max_tokens: int,
        stop_ids: Sequence[int],
    ) -> list[list[list[int]]]:
        """Continue queries greedily, as the service does (see `Writer.answer`)."""
        (memory,) = state.tensors
        answers = iter(
            generate(
                self.model,
                memory,
                [list(query) for of_context in queries for query in of_context],
                [owner for owner, of_context in enumerate(queries) for _ in of_context],
                [Sampling(max_tokens)] * sum(len(of_context) for of_context in queries),
                rules=ReadingRules(frozenset(stop_ids)),
            )
        )
        return [[next(answers).tokens for _ in of_context] for of_context in queries]


class FirstOrderGradMem(GradMem):
    """The ablation without second-order terms: training takes the write gradients as constants."""

    kind: ClassVar[str] = "gradmem-first-order"
    second_order: ClassVar[bool] = False

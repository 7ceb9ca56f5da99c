"""Try a checkpoint before it serves: write and read the example of its task."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradmem_core.blob import quantize
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import BlobDtype
from gradmem_core.errors import CheckpointError, GradMemError
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.generation import answer_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import decode_answer, prepare_document, prepare_query
from gradmem_core.writing.descent import write

MAX_PAGES = 64
"Most pages of an example, of which the first is written."

logger = logging.getLogger(__name__)


def try_checkpoint(checkpoint: Checkpoint, *, dtype: BlobDtype) -> None:
    """Write the example document of a checkpoint's task, and ask the example query.

    A wrong answer is a warning: a checkpoint may be poor and still be wanted.

    Args:
        checkpoint: The checkpoint.
        dtype: Type in which the elements of a memory are stored.

    Raises:
        CheckpointError: WRITE or READ fails, or gives numbers that are not finite.
    """
    began = time.monotonic()
    with _naming_failures(checkpoint, "WRITE"):
        memory = _write_example(checkpoint, dtype)
    with _naming_failures(checkpoint, "READ"):
        answer = _read_example(checkpoint, memory)
    logger.info("%s passed its self-test in %.1f s", checkpoint.name, time.monotonic() - began)
    text = decode_answer(checkpoint, answer)
    if text is None or text.strip() != checkpoint.task.example_answer:
        logger.warning("%s answers the example query of its task wrongly", checkpoint.name)


@contextmanager
def _naming_failures(checkpoint: Checkpoint, operation: str) -> Iterator[None]:
    """Turn every error, whatever a device or a model raises, into one that says what to do.

    Its text is told: it can hold no other document than the example.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, GradMemError):
            reason = f"{type(error).__name__}: {reason}"
        raise CheckpointError(
            f"the checkpoint {checkpoint.name} fails its self-test: {operation} ended with"
            f" {reason}; check the device and the checkpoint, or skip the test with"
            " GRADMEM_SELF_TEST=false"
        ) from error


def _write_example(checkpoint: Checkpoint, dtype: BlobDtype) -> torch.Tensor:
    """Return the memory of the first page, `(1, m, d)`, as a store would return it."""
    model = checkpoint.model
    document = prepare_document(checkpoint, checkpoint.task.example_document, max_pages=MAX_PAGES)
    device = model.initial_memory.device
    context = torch.tensor([document.pages[0].ids], device=device)  # (1, T)
    lengths = torch.tensor([context.shape[1]], device=device)
    steps = model.config.write_steps
    written = write(model, context, lengths, steps, create_graph=False)
    return quantize(written.memory, dtype).to(device)


def _read_example(checkpoint: Checkpoint, memory: torch.Tensor) -> Answer:
    query = prepare_query(checkpoint, checkpoint.task.example_query)
    sampling = Sampling(max_new_tokens=checkpoint.model.config.max_answer_tokens)
    [answer] = answer_queries(checkpoint, memory, [query], [sampling])
    if not math.isfinite(answer.confidence):
        raise CheckpointError("probabilities that are not finite")
    return answer

"""Memories for other engines, which take them in place of the embeddings of a prompt's tokens."""

import io
import json
from base64 import b64encode
from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from gradmem_core.config import EmbedsForm
from gradmem_core.model import MemoryModel

PROMPT_EMBEDS = "prompt_embeds"
"Name of the tensor, as vLLM calls its input."


def export_prompt_embeds(
    model: MemoryModel, memory: Tensor, query: Sequence[int] = (), *, form: EmbedsForm
) -> bytes:
    """Export a memory, and the query after it, as inputs of the backbone.

    A causal language model that reads them gives READ's answer to the query. The model is the
    backbone alone if the checkpoint has no adapter or one for WRITE, and else the backbone with the
    checkpoint's `adapter/` as a LoRA.

    Args:
        model: The model that wrote the memory.
        memory: The memory, `(m, d)`.
        query: Token ids of the query as READ takes it; none for the memory alone.
        form: The form of the export.

    Returns:
        The inputs `(m + tokens, d)` in the backbone's dtype, with the projection applied.
    """
    embeds = _make_inputs(model, memory, query)
    match form:
        case "safetensors":
            return save({PROMPT_EMBEDS: embeds})
        case "completions":
            fields = {PROMPT_EMBEDS: _encode(embeds)}
        case "chat":
            fields = {"type": PROMPT_EMBEDS, "data": _encode(embeds)}
    return json.dumps(fields).encode()


def export_initial_memory(model: MemoryModel) -> bytes:
    """Export M0, from which WRITE starts, as a safetensors file like that of a memory."""
    return export_prompt_embeds(model, model.initial_memory, form="safetensors")


@torch.no_grad()
def _make_inputs(model: MemoryModel, memory: Tensor, query: Sequence[int]) -> Tensor:
    device = model.initial_memory.device
    prefix = model.prefix(memory.to(device)[None])  # (1, m, d)
    ids = torch.tensor([list(query)], dtype=torch.long, device=device)  # (1, T)
    # Concatenated even without a query: a view would be stored with the other pages around it.
    return torch.cat([prefix, model.backbone.embed(ids).to(prefix.dtype)], dim=1)[0].cpu()


def _encode(embeds: Tensor) -> str:
    """Encode a tensor in the only form that vLLM's server reads: `torch.save`, then base64.

    That is a pickle, for others to load: nothing in GradMem loads one.
    """
    buffer = io.BytesIO()
    torch.save(embeds, buffer)
    return b64encode(buffer.getvalue()).decode("ascii")

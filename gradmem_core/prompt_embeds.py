"""Memories for other engines, which take them in place of the embeddings of a prompt's tokens."""

import torch
from safetensors.torch import save
from torch import Tensor

from gradmem_core.model import MemoryModel

PROMPT_EMBEDS = "prompt_embeds"
"Name of the tensor in the file, as vLLM calls its input."


@torch.no_grad()
def export_prompt_embeds(model: MemoryModel, memory: Tensor) -> bytes:
    """Export a memory `(m, d)` as inputs of the backbone, with the projection applied.

    A causal language model that reads them before the embeddings of a query's tokens gives READ's
    answer. The model is the backbone alone if the checkpoint has no adapter or one for WRITE, and
    else the backbone with the checkpoint's `adapter/` as a LoRA.

    Returns:
        A safetensors file with the tensor PROMPT_EMBEDS, `(m, d)` in the backbone's dtype.
    """
    prefix = model.prefix(memory.to(model.initial_memory.device)[None])[0]
    return save({PROMPT_EMBEDS: prefix.cpu().contiguous()})

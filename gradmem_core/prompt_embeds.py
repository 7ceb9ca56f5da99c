"""Memories for other engines: what they take in place of the embeddings of a prompt's tokens."""

import torch
from safetensors.torch import save
from torch import Tensor

from gradmem_core.model import MemoryModel

PROMPT_EMBEDS = "prompt_embeds"
"Name of the tensor in the file; vLLM's name for what it takes."


@torch.no_grad()
def export_prompt_embeds(model: MemoryModel, memory: Tensor) -> bytes:
    """A memory `(m, d)` as it enters the backbone, projection applied.

    A causal language model that reads it, followed by the embeddings of a query's tokens, says what
    READ says. It is the backbone alone where the checkpoint has no adapter, or one of WRITE; else
    the backbone with the checkpoint's `adapter/` on it as a LoRA.

    Returns:
        A safetensors file with the tensor PROMPT_EMBEDS, `(m, d)` in the backbone's dtype.
    """
    prefix = model.prefix(memory.to(model.initial_memory.device)[None])[0]
    return save({PROMPT_EMBEDS: prefix.cpu().contiguous()})

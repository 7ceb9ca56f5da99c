"""Causal attention that can be differentiated twice, in blocks of rows or by kernels for a GPU."""

from gradmem_core.attention.causal import causal_attention, has_triton

__all__ = ["causal_attention", "has_triton"]

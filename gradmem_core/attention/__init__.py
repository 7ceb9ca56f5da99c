"""Causal attention that can be differentiated twice, in blocks of rows or by kernels for a GPU."""

from gradmem_core.attention.causal import causal_attention

__all__ = ["causal_attention"]

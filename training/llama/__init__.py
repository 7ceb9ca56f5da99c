"""Llama models joined for training: fewer kernels, with second derivatives written out."""

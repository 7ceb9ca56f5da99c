"""Texts into pages: what people send, in the form that a checkpoint takes."""

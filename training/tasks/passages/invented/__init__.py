"""Invented prose: paragraphs of facts that no model can know, and questions about them."""

from training.tasks.passages.invented.source import InventedPassages

__all__ = ["InventedPassages"]

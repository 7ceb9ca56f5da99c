"""WRITE: memories from pages by gradient descent."""

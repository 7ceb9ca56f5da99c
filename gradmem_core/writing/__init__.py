"""WRITE: pages become memories by gradient descent."""

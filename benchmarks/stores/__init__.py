"""Stores of different sizes, side by side."""

"""Measurements of what the three rooms do; nothing of it is served."""

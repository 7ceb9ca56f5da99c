"""Seconds of training steps and of reading, beside straightforward implementations."""

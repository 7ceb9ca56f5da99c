"""Checkpoints: folders with all that serving needs, how they are saved, loaded and checked."""

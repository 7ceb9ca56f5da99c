"""Checkpoints: folders with everything that serving needs, saved, loaded and verified."""

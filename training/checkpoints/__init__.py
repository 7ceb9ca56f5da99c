"""Checkpoints around a training run: made from a pretrained model, described by a card."""

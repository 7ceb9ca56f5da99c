"""The meta-training loop: batches, gradients, the outer optimizer, and the state on disk."""

"""The model: WRITE, READ, checkpoints and memory blobs."""

"""The model: texts into pages, WRITE, READ, checkpoints and memory blobs."""

"""How well a writer answers: its scores on a task, by what counts as a right answer."""

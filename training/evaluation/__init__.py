"""Evaluation: the scores of a writer on a task, and the grading of single answers."""

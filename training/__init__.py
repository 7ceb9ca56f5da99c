"""Meta-training: tasks, recipes, the training loop and evaluation."""

"""The device in a process of its own, whose interpreter does nothing else."""

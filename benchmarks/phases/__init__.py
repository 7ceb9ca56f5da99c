"""What phases of agents' work still answer once they are closed, and what of them stays."""

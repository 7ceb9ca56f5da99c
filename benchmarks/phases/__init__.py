"""The measurement of closed phases of work: answers, and tokens that stay in the context."""

"""Many documents at a time: batches and jobs."""

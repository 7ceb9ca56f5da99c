"""The service under load, and what its device does with time and memory."""

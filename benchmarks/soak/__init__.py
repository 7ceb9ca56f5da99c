"""Mixed traffic for a long time, and what the service's process holds meanwhile."""

"""`gradmem bench`: what the service reaches on this machine, and what bounds it."""

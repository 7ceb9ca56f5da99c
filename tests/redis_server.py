"""The real Redis server of the tests, which the benchmark of faults has too."""

from benchmarks.faults.redis_server import RedisServer, free_port

__all__ = ["RedisServer", "free_port"]

"""The real Redis server of the tests, which the benchmark of faults has too."""

from benchmarks.faults.redis_server import APPEND_ONLY, RedisServer, find_server, free_port

__all__ = ["APPEND_ONLY", "RedisServer", "find_server", "free_port"]

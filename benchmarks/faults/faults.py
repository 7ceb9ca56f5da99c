"""Faults of a Redis store, each a coroutine that returns when it is over."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from redis.asyncio import Redis

from benchmarks.faults.redis_server import RedisServer

CUT_PAUSE_SECONDS = 0.05
"Pause between two times that all connections are cut."

Fault = Callable[[RedisServer, float], Awaitable[None]]
"Makes the fault last for some seconds."


async def kill(server: RedisServer, seconds: float) -> None:
    """Kill the server (`kill -9`), and start it again after a while."""
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


async def pause(server: RedisServer, seconds: float) -> None:
    """Let the server hang."""
    server.pause()
    await asyncio.sleep(seconds)
    server.go_on()


async def fill(server: RedisServer, seconds: float) -> None:
    """Leave the server no memory."""
    async with Redis.from_url(server.url) as redis:
        await redis.config_set("maxmemory", "1")
        await asyncio.sleep(seconds)
        await redis.config_set("maxmemory", "0")


async def cut(server: RedisServer, seconds: float) -> None:
    """Cut all connections again and again, in the middle of replies too."""
    end = time.monotonic() + seconds
    async with Redis.from_url(server.url) as redis:
        while time.monotonic() < end:
            await redis.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(CUT_PAUSE_SECONDS)


async def change_password(server: RedisServer, seconds: float) -> None:
    """Ask for a password that the service does not have."""
    async with Redis.from_url(server.url) as redis:
        await redis.config_set("requirepass", "another")
        await redis.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(seconds)
        await redis.config_set("requirepass", "")


FAULTS: Mapping[str, Fault] = {
    "Redis killed": kill,
    "Redis paused": pause,
    "Redis out of memory": fill,
    "connections cut": cut,
    "password changed": change_password,
}
"Faults of Redis by name."

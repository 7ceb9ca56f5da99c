"""Run the app under uvicorn."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import uvicorn

from gradmem_core.errors import DeviceLostError
from service.app import create_app
from service.engine.threads import leave_cores_to_the_engine
from service.settings import AddressError, Settings
from service.stores import Store, create_store

logger = logging.getLogger("gradmem")

SHUTDOWN_SECONDS = 20
"Longest time that requests may take to finish once the process is told to stop."

KEEP_ALIVE_SECONDS = 75
"""Time that an idle connection stays open: longer than clients keep theirs (httpx: 5 s), or they
would send requests into connections that are just being closed."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends the process.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        DeviceError: There is no such device.
        StoreUnavailableError: The store cannot be opened.
        DeviceLostError: The device was lost while serving; every request has been answered.
        AddressError: The address is taken, or not one of this machine.
        ValueError: The store's URL names no store.
    """
    configure_logging(settings.log_level)
    _warn_of_root()
    threads = leave_cores_to_the_engine(settings.threads)
    settings = settings.model_copy(update={"threads": threads})
    store = create_store(settings.store_url, allow_eviction=settings.allow_eviction)
    asyncio.run(_try_store(store))
    asyncio.run(_try_address(settings.host, settings.port))
    lost = threading.Event()

    def shut_down() -> None:
        lost.set()
        server.should_exit = True

    server = uvicorn.Server(server_config(settings, on_device_lost=shut_down))
    server.run()
    if lost.is_set():
        raise DeviceLostError("the device was lost; the log says why")


def _warn_of_root() -> None:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning("running as root, which the service does not need; run it as another user")


async def _try_address(host: str, port: int) -> None:
    """Listen for a moment: uvicorn would only log its error, after the models were loaded.

    Raises:
        AddressError: The address is taken, or not one of this machine.
    """
    try:
        async with await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port):
            pass
    except OSError as error:
        reason = str(error.strerror).rpartition(": ")[2]  # asyncio's text repeats the address
        raise AddressError(
            f"cannot listen on {host}:{port}: {reason}; choose another address or port"
        ) from error


async def _try_store(store: Store) -> None:
    """Open a store and close it again: uvicorn would turn its error into a traceback."""
    async with store:
        pass


def server_config(settings: Settings, *, on_device_lost: Callable[[], None]) -> uvicorn.Config:
    """Return the uvicorn configuration of the app.

    uvicorn's own access log is off: it prints paths, and paths hold memory ids.
    """
    return uvicorn.Config(
        create_app(settings, on_device_lost=on_device_lost),
        host=settings.host,
        port=settings.port,
        log_config=None,  # that of the root logger, see configure_logging
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def configure_logging(level: str) -> None:
    """Log to standard error, one line per event."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)

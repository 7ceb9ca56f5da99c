"""Run the app under uvicorn."""

import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gradmem_core.errors import DeviceLostError
from service.app import create_app
from service.connections import ConnectionLimits
from service.device_process.executor import ProcessExecutor
from service.device_process.process import DeviceProcess
from service.encryption import Keyring, check_keys
from service.engine.threads import leave_cores_to_the_engine
from service.jobs.worker import JobWorker
from service.log import configure_logging
from service.models import Models
from service.reloading import Reloader
from service.settings import Settings, StartError
from service.stores import create_store
from service.telemetry import Telemetry
from service.tracing import create_tracer
from service.waiting import WaitingRequests

logger = logging.getLogger("gradmem")

ANSWER_SECONDS = 5
"Time to answer the requests that are ended, once their time to finish has run out."

KEEP_ALIVE_SECONDS = 75
"""Time that an idle connection stays open: longer than clients keep theirs (httpx: 5 s), or they
would send requests into connections that are just being closed."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends the process.

    Raises:
        CheckpointError: A checkpoint cannot be loaded, or fails its self-test.
        DeviceError: There is no such device.
        EncryptionKeyError: A key is malformed, or memories in the store need another one.
        StoreUnavailableError: The store cannot be opened.
        DeviceLostError: The device was lost while serving; every request has been answered.
        StartError: The address is taken, not one of this machine or open to others without a key,
            or the log says why.
        ValueError: The store's URL names no store.
    """
    configure_logging(settings.log_level, settings.log_format)
    _warn_of_root()
    threads = leave_cores_to_the_engine(settings.threads)
    settings = settings.model_copy(update={"threads": threads})
    asyncio.run(try_store(settings))
    asyncio.run(_try_address(settings.host, settings.port))
    with DeviceProcess(settings) as process:
        # This process computes nothing: it has the checkpoints for their tokenizers and limits.
        _serve(settings.model_copy(update={"device": "cpu"}), process)


def _serve(settings: Settings, process: DeviceProcess) -> None:
    lost = threading.Event()

    def shut_down() -> None:
        lost.set()
        server.should_exit = True

    telemetry = Telemetry(create_tracer())
    executor = ProcessExecutor(process, telemetry)
    references = settings.read_checkpoints()
    models = Models.load(references, device=settings.device, precision=settings.precision)
    for checkpoint, reference in zip(models.all(), references, strict=True):
        executor.prepare(checkpoint, reference)
    app = create_app(
        settings, models=models, executor=executor, telemetry=telemetry, on_device_lost=shut_down
    )
    reloader = Reloader(models, settings, executor.prepare) if settings.checkpoints_file else None
    server = Server(app, settings, reloader)
    # What is loaded stays: the garbage collector would go through all of it again and again while
    # a large body is parsed, and hold up every thread.
    gc.collect()
    gc.freeze()
    try:
        server.run()
    except SystemExit as error:  # uvicorn's status would mean something else here
        raise StartError("the service could not start; the log says why") from error
    if lost.is_set():
        raise DeviceLostError("the device was lost; the log says why")


def _warn_of_root() -> None:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning("running as root, which the service does not need; run it as another user")


async def _try_address(host: str, port: int) -> None:
    """Listen for a moment: uvicorn would only log its error, after the models were loaded.

    Raises:
        StartError: The address is taken, or not one of this machine.
    """
    try:
        async with await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port):
            pass
    except OSError as error:
        reason = str(error.strerror).rpartition(": ")[2]  # asyncio's text repeats the address
        raise StartError(
            f"cannot listen on {host}:{port}: {reason}; choose another address or port"
        ) from error


async def try_store(settings: Settings) -> None:
    """Open the store and close it again: uvicorn would turn its error into a traceback.

    Raises:
        EncryptionKeyError: A key is malformed, or memories in the store need another one.
        StoreUnavailableError: The store cannot be opened.
        StartError: It has no keys of clients, and others could reach the service.
        ValueError: The store's URL names no store.
    """
    store = create_store(settings.store_url, allow_eviction=settings.allow_eviction)
    keyring = Keyring(settings.read_encryption_keys())
    async with store:
        await check_keys(store, keyring)
        if not settings.may_be_open and not await store.has_keys():
            raise StartError(
                f"{settings.host} can be reached by others, and there are no keys: make one with"
                " `gradmem keys create`, or let anyone in with --insecure (GRADMEM_INSECURE=true)"
            )


class Server(uvicorn.Server):
    """uvicorn's server, within limits of connections, which answers every request before it ends.

    Args:
        app: The app, of `create_app`.
        settings: The operator's settings.
        reloader: Brings the checkpoints up to date with their file; None where there is none.
    """

    def __init__(self, app: FastAPI, settings: Settings, reloader: Reloader | None = None) -> None:
        limits = ConnectionLimits(
            connections=count_connections(settings.max_connections),
            header_seconds=settings.header_timeout_seconds,
            idle_seconds=KEEP_ALIVE_SECONDS,
        )
        self._waiting: WaitingRequests = app.state.gradmem.waiting
        self._job_worker: JobWorker = app.state.gradmem.job_worker
        self._shutdown_seconds = settings.shutdown_seconds
        self._reloader = reloader
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=limits.protocol,
                ws="none",
                log_config=None,  # that of the root logger, see configure_logging
                access_log=False,  # uvicorn's prints paths, and paths hold memory ids
                server_header=False,
                timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds) + ANSWER_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; from now on SIGHUP brings the checkpoints up to date with their file.

        Whoever left the choice of the port to the system gets the address as a line of the standard
        output.
        """
        await super().startup(sockets)
        if self.config.port == 0:
            print(self._url(), flush=True)  # noqa: T201
        if self._reloader is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloader.request)

    def _url(self) -> str:
        """Return the base URL at which the server listens."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.servers[0].sockets[0].getsockname()[1]}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; uvicorn would also end the process by it, instead of with status 0."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish for a while, then answer those that remain.

        Documents of jobs are given back meanwhile; a reload ends.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._shutdown_seconds, self._waiting.end)
        stopping = [asyncio.create_task(self._job_worker.stop())]  # a store that hangs holds it up
        if self._reloader is not None:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by default it would end the process
            stopping.append(asyncio.create_task(self._reloader.close()))
        await super().shutdown(sockets)
        timer.cancel()
        await asyncio.gather(*stopping)


def count_connections(wanted: int) -> int:
    """Return the most connections: half of the files that the process may open are for the rest."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, files // 2)
    if wanted <= most or files == resource.RLIM_INFINITY:
        return wanted
    logger.warning("%d connections instead of %d: the limit of open files is low", most, wanted)
    return most

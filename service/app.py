"""The app is a value: `create_app` returns it, and nothing happens on import."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import cast

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from gradmem_core.errors import GradMemError
from service.engine import Admission, Engine, Limits, TorchDevice
from service.engine.threads import use_threads
from service.errors import INVALID_REQUEST, problem_of, response_of
from service.memories import Memories
from service.middleware import BodyLimit, BodyTooLargeError, Observed
from service.models import Models
from service.routes import router
from service.schemas import NAMED, Problem
from service.settings import Settings
from service.state import State
from service.stores import Store, create_store
from service.streams import GONE, ClientGoneError
from service.telemetry import Telemetry

logger = logging.getLogger("gradmem")
CPU_STEP_WORK = 2**36
"""Tokens times parameters of a gradient step on a CPU: two seconds on two cores, for which READ may
have to wait. Larger batches would not be faster there."""


def create_app(
    settings: Settings,
    *,
    models: Models | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    on_device_lost: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Build the service.

    Args:
        settings: What the operator decided.
        models: Loaded checkpoints; those of the settings by default.
        store: Where memories are kept; that of the settings by default.
        engine: Does the work; one on the settings' device by default.
        on_device_lost: Called, on another thread, when the engine has ended by itself.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        ValueError: The store's URL names no store.
    """
    telemetry = Telemetry()
    models = models or Models.load(
        settings.checkpoints, device=settings.device, precision=settings.precision
    )
    store = store or create_store(settings.store_url)
    engine = engine or _engine(settings, telemetry)
    engine.on_failure = on_device_lost
    memories = Memories(
        models, engine, store, dtype=settings.blob_dtype, max_pages=settings.max_pages
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Threads for texts and blobs: torch must not start threads of its own in each of them.
        workers = ThreadPoolExecutor(initializer=use_threads, initargs=(1,))
        asyncio.get_running_loop().set_default_executor(workers)
        async with store:
            engine.start()
            try:
                app.state.gradmem = State(settings, models, engine, memories, telemetry)
                yield
            finally:
                await to_thread.run_sync(engine.stop)

    app = FastAPI(
        title="GradMem",
        version=version("gradmem"),
        summary="Compress a document into a few vectors, then answer queries from them alone.",
        lifespan=lifespan,
        redirect_slashes=False,
        middleware=[
            Middleware(Observed, telemetry=telemetry),
            Middleware(BodyLimit, limit=settings.max_body_bytes),
        ],
        exception_handlers={
            GradMemError: _refused,
            RequestValidationError: _invalid,
            BodyTooLargeError: _too_large,
            HTTPException: _http,
            ClientGoneError: _gone,
        },
    )
    app.include_router(router)
    return app


def _engine(settings: Settings, telemetry: Telemetry) -> Engine:
    return Engine(
        TorchDevice(prefix_bytes=settings.max_prefix_bytes),
        Limits(
            settings.max_batch_tokens,
            settings.max_batch_queries,
            CPU_STEP_WORK if settings.device.startswith("cpu") else None,
        ),
        Admission(settings.max_tokens, settings.max_timeout_seconds),
        telemetry,
        threads=settings.threads,
    )


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    problem = problem_of(cast("GradMemError", error))
    if problem.status >= 500:
        cause = type(error.__cause__).__name__ if error.__cause__ else "none"
        logger.warning("%s (cause: %s)", problem.type, cause)
    return response_of(problem)


async def _invalid(request: Request, error: Exception) -> Response:  # noqa: ARG001
    entries = cast("RequestValidationError", error).errors()[:NAMED]
    fields = [
        {"field": _printable(".".join(map(str, entry["loc"]))), "message": str(entry["msg"])}
        for entry in entries
    ]
    first = fields[0]
    return response_of(
        Problem(
            type=INVALID_REQUEST.type,
            title=INVALID_REQUEST.title,
            status=INVALID_REQUEST.status,
            detail=f"{first['field']}: {first['message']}",
            errors=fields,
        )
    )


def _printable(name: str) -> str:
    """A field's name; a client may invent one that UTF-8 cannot hold."""
    return name.encode(errors="replace").decode()


async def _too_large(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return response_of(cast("BodyTooLargeError", error).problem())


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=GONE)


async def _http(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The framework's own refusals: no such route, or not with this method."""
    refusal = cast("HTTPException", error)
    response = response_of(
        Problem(
            type="about:blank",
            title=refusal.detail,
            status=refusal.status_code,
            detail=f"{refusal.detail}; /docs lists the routes",
        )
    )
    response.headers.update(refusal.headers or {})
    return response

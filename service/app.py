"""Build the app from its settings; nothing happens on import."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import version

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from gradmem_core.errors import GradMemError
from service.access import Access
from service.app_state import AppState
from service.devices import create_executor
from service.documentation import add_documentation
from service.encryption import Keyring
from service.engine import AdmissionLimits, Engine, Executor
from service.engine.threads import use_threads
from service.errors import response_of
from service.front_page import add_front_page
from service.idempotency import Idempotency
from service.jobs.batch import BatchWriter
from service.jobs.jobs import Jobs
from service.jobs.routes import router as jobs_router
from service.jobs.submission import REPLAYED
from service.jobs.webhooks import Webhooks
from service.jobs.worker import JobWorker
from service.log import log_loop_failure
from service.memories import Memories
from service.middleware import RequestGate, RequestObserver
from service.models import Models
from service.observed_store import observe_store
from service.openai.routes import router as openai_router
from service.readiness import Readiness
from service.reading import Reader
from service.refusals import RefusalError
from service.routes import router
from service.routes_memories import router as memories_router
from service.settings import Settings
from service.stores import Store, create_store
from service.telemetry import Telemetry
from service.transfer import Transfer
from service.waiting import WaitingRequests
from service.writing import DocumentWriter

NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"FastAPI's own telemetry is off: its spans hold paths, and so memory ids, its logs texts of errors."

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
"Methods that routes may have; HEAD goes with GET."


def create_app(
    settings: Settings,
    *,
    models: Models | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    executor: Executor | None = None,
    telemetry: Telemetry | None = None,
    on_device_lost: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Build the service.

    Args:
        settings: The operator's settings.
        models: Loaded checkpoints; those of the settings by default.
        store: The store of memories; that of the settings by default.
        engine: The engine; one within the settings' limits by default.
        executor: Does the engine's work; a thread on the settings' device by default.
        telemetry: Metrics and traces; metrics alone by default.
        on_device_lost: Called on another thread when the engine has ended by itself.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        ValueError: The store's URL names no store.
    """
    telemetry = telemetry or Telemetry()
    if engine is None:
        executor = executor or create_executor(settings, telemetry)
        executor.on_failure = on_device_lost
        engine = _create_engine(settings, executor, telemetry)
    state = _create_state(settings, models, store, engine, telemetry)
    app = FastAPI(
        title="GradMem",
        version=version("gradmem"),
        summary="Compress a document into a few vectors, then answer queries from them alone.",
        lifespan=_run_parts,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        telemetry=NO_TELEMETRY,
        middleware=_list_middleware(settings, state),
        exception_handlers={
            **dict.fromkeys(
                (GradMemError, RefusalError, RequestValidationError, HTTPException), _answer_error
            ),
            405: _answer_wrong_method,
        },
    )
    app.state.gradmem = state
    app.include_router(router)
    app.include_router(openai_router)
    app.include_router(memories_router)
    app.include_router(jobs_router)
    add_documentation(app)
    if settings.page:
        add_front_page(app)
    return app


def _limit_body(state: AppState, method: str, path: str) -> int:
    """Return the largest body of a request."""
    if method == "PUT" and path.endswith("/blob"):
        return state.import_bytes
    return state.settings.max_body_bytes


def _list_middleware(settings: Settings, state: AppState) -> list[Middleware]:
    """Return the middleware around every route, the outermost first."""
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[REPLAYED, "Location", "Preference-Applied", "Retry-After", "X-Request-Id"],
    )
    return [
        Middleware(RequestObserver, telemetry=state.telemetry, waiting=state.waiting),
        *([cross_origin] if settings.allowed_origins else []),
        Middleware(
            RequestGate,
            body_limit=partial(_limit_body, state),
            hosts=settings.hosts_to_answer_for,
        ),
    ]


def _create_state(
    settings: Settings,
    models: Models | None,
    store: Store | None,
    engine: Engine,
    telemetry: Telemetry,
) -> AppState:
    models = models or Models.load(
        settings.read_checkpoints(), device=settings.device, precision=settings.precision
    )
    store = store or create_store(settings.store_url, allow_eviction=settings.allow_eviction)
    store = observe_store(store, telemetry)
    keyring = Keyring(settings.read_encryption_keys())
    memories = Memories(
        models,
        engine,
        store,
        keyring,
        dtype=settings.blob_dtype,
        max_pages=settings.max_pages,
    )
    readiness = Readiness(engine, store, telemetry)
    writer = DocumentWriter(models, engine, memories, readiness)
    jobs = Jobs(
        store,
        keyring,
        most=settings.max_jobs,
        most_ended=settings.max_ended_jobs,
        keep=timedelta(seconds=settings.job_seconds),
    )
    return AppState(
        settings=settings,
        access=Access(store, open_without_keys=settings.may_be_open),
        models=models,
        engine=engine,
        store=store,
        memories=memories,
        transfer=Transfer(memories, models, store, keyring),
        readiness=readiness,
        writer=writer,
        idempotency=Idempotency(store, most=settings.max_idempotency_keys),
        batches=BatchWriter(writer, seconds=settings.max_timeout_seconds),
        jobs=jobs,
        webhooks=Webhooks(
            jobs, telemetry, hosts=settings.webhook_hosts, secret=settings.webhook_secret
        ),
        job_worker=JobWorker(jobs, writer, telemetry, at_a_time=settings.job_documents),
        reader=Reader(engine, memories, telemetry),
        telemetry=telemetry,
        waiting=WaitingRequests(),
    )


@asynccontextmanager
async def _run_parts(app: FastAPI) -> AsyncIterator[None]:
    """Open the store and run the engine as long as the app runs."""
    state: AppState = app.state.gradmem
    # Threads for texts and blobs: torch must not start threads of its own in each of them.
    workers = ThreadPoolExecutor(initializer=use_threads, initargs=(1,))
    loop = asyncio.get_running_loop()
    loop.set_default_executor(workers)
    loop.set_exception_handler(log_loop_failure)
    async with state.store:
        await state.access.open()
        state.engine.start()
        try:
            async with (
                state.readiness,
                state.job_worker.running(),
                state.webhooks.running(),
            ):
                yield
        finally:
            await to_thread.run_sync(state.engine.stop)


def _create_engine(settings: Settings, executor: Executor, telemetry: Telemetry) -> Engine:
    return Engine(executor, admission_limits(settings), telemetry)


def admission_limits(settings: Settings) -> AdmissionLimits:
    """Return the limits on the requests that a service takes on."""
    return AdmissionLimits(
        settings.max_tokens, settings.max_timeout_seconds, settings.max_wait_seconds
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    return response_of(error, request.scope["path"])


async def _answer_wrong_method(request: Request, _error: Exception) -> Response:
    """Answer 405 with all methods of the path: the framework names those of its first route."""
    allowed = [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    if "GET" in allowed:
        allowed.append("HEAD")
    wrong_method = HTTPException(405, headers={"Allow": ", ".join(allowed)})
    return response_of(wrong_method, request.scope["path"])

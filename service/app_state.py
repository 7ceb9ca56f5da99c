"""The parts of a running app that its routes use."""

from dataclasses import dataclass

from fastapi import Request

from service.access import Access
from service.engine import Engine
from service.idempotency import Idempotency
from service.jobs.batch import BatchWriter
from service.jobs.jobs import Jobs
from service.jobs.webhooks import Webhooks
from service.jobs.worker import JobWorker
from service.memories import Memories
from service.models import Models
from service.readiness import Readiness
from service.reading import Reader
from service.settings import Settings
from service.stores import Store
from service.telemetry import Telemetry
from service.transfer import Transfer
from service.waiting import WaitingRequests
from service.writing import DocumentWriter


@dataclass(frozen=True)
class AppState:
    """The parts of a running app."""

    settings: Settings
    access: Access
    models: Models
    engine: Engine
    store: Store
    memories: Memories
    transfer: Transfer
    readiness: Readiness
    writer: DocumentWriter
    idempotency: Idempotency
    batches: BatchWriter
    jobs: Jobs
    job_worker: JobWorker
    webhooks: Webhooks
    reader: Reader
    telemetry: Telemetry
    waiting: WaitingRequests

    @property
    def import_bytes(self) -> int:
        """Largest body of the import of a memory: that of the largest memory, if it is larger."""
        return max(self.settings.max_body_bytes, self.transfer.largest_blob())


def state_of(request: Request) -> AppState:
    """Return the state of the app that received a request."""
    state: AppState = request.app.state.gradmem
    return state

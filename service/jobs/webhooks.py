"""Tell of the end of jobs: webhooks as https://www.standardwebhooks.com specifies them."""

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from gradmem_core.errors import BlobError, EncryptionKeyError, StoreUnavailableError
from service.jobs.jobs import Jobs, describe_job
from service.jobs.schemas import WebhookEvent
from service.log import log_failure
from service.refusals import WebhookRefusedError
from service.settings import decode_secret
from service.stores import StoredJob
from service.telemetry import Telemetry

POLL_SECONDS = 1.0
"Time between two looks for jobs whose end is to be told."
ANSWER_SECONDS = 15.0
"Longest time of an attempt."
LEASE = timedelta(seconds=60)
"Time after which others make the next attempt, where the service died during one."
DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600)
)
"Times from each failed attempt to the next; after the last there is none."
AT_A_TIME = 8
"Attempts at a time."
PORTS = {"http": 80, "https": 443}
GONE = 410

logger = logging.getLogger(__name__)


class Webhooks:
    """Sends webhooks, until each is received or too many attempts have failed.

    Args:
        jobs: The jobs.
        telemetry: Metrics of the attempts.
        hosts: Hosts that may be told, `HOST` or `HOST:PORT`.
        secret: Secret that signs; None where nothing is to be sent.
    """

    def __init__(
        self, jobs: Jobs, telemetry: Telemetry, *, hosts: Sequence[str], secret: str | None
    ) -> None:
        self._jobs = jobs
        self._telemetry = telemetry
        self._hosts = {host.lower() for host in hosts}
        self._key = None if secret is None else decode_secret(secret)
        self._client = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, url: str) -> None:
        """Refuse an address to which nothing may be sent.

        Raises:
            WebhookRefusedError: Its host is not allowed, or it has another form.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme)
            httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            raise WebhookRefusedError from None
        allowed = {f"{parts.hostname}:{port}"}
        if port == PORTS.get(parts.scheme):
            allowed.add(str(parts.hostname))
        if parts.scheme not in PORTS or "@" in parts.netloc or not allowed & self._hosts:
            raise WebhookRefusedError

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context lasts, in which the store is open."""
        async with self._client:
            if self._key is not None:
                self._start(self._keep_sending(self._key))
            try:
                yield
            finally:
                tasks = list(self._tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_sending(self, key: bytes) -> None:
        while True:
            await self._room.acquire()
            try:
                taken = await self._jobs.take_delivery(LEASE)
            except Exception as error:  # the others have to be sent
                if not isinstance(error, StoreUnavailableError):
                    log_failure(logger, "a webhook", error)
                taken = None
            if taken is not None:
                self._start(self._tell(key, taken))
                continue
            self._room.release()
            await asyncio.sleep(POLL_SECONDS)

    async def _tell(self, key: bytes, job: StoredJob) -> None:
        """Make an attempt to tell of the end of a job, and settle what is next."""
        try:
            received = await self._send(key, job)
            failures = job.deliveries
            again_at = None
            if received:
                outcome = "delivered"
            elif received is None or failures > len(DELAYS):
                outcome = "abandoned"
            else:
                outcome, again_at = "failed", datetime.now(UTC) + DELAYS[failures - 1]
            self._telemetry.webhooks.labels(outcome).inc()
            with suppress(StoreUnavailableError):  # then it is sent once more
                await self._jobs.settle_delivery(job, again_at=again_at)
        finally:
            self._room.release()

    async def _send(self, key: bytes, job: StoredJob) -> bool | None:
        """Send a webhook; return True if it was received, None if it is never to be sent again."""
        try:
            url = self._jobs.open_webhook(job)
            self.check(url)
            body = _describe_end(job)
            headers = sign(key, f"job_{job.job_id}", datetime.now(UTC), body)
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                return None if response.status_code == GONE else response.is_success
        except WebhookRefusedError:  # it was allowed once
            return None
        except (BlobError, EncryptionKeyError) as error:  # nobody will know where to
            logger.warning("a webhook is not sent: %s", error.message)
            return None
        except (httpx.HTTPError, OSError):  # TimeoutError, too
            return False


def sign(key: bytes, message_id: str, moment: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook.

    Args:
        key: The key that signs.
        message_id: Its id, the same in every attempt.
        moment: The time of the attempt.
        body: Its body.
    """
    timestamp = str(int(moment.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "GradMem",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _describe_end(job: StoredJob) -> bytes:
    """Return the body of a webhook, which holds no text and no id of a memory."""
    event = WebhookEvent(
        type="job.cancelled" if job.cancelled else "job.done",
        timestamp=job.ended_at or datetime.now(UTC),
        data=describe_job(job),
    )
    return event.model_dump_json().encode()

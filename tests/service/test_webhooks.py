"""Webhooks of jobs, sent to a real server and verified as Standard Webhooks' own package does."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.jobs import webhooks
from service.models import Models
from service.refusals import WebhookRefusedError
from service.settings import Settings
from tests.service.conftest import Serving
from tests.service.test_http import problem
from tests.service.test_jobs import ASYNC, ITEM

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver(HTTPServer):
    """A server that keeps the requests, and answers with the statuses that it is told, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.statuses: list[int] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/jobs?team=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.put(({k.lower(): v for k, v in self.headers.items()}, body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if statuses else 204)
        self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hooked(settings: Settings, receiver: Receiver) -> Settings:
    changes = {"webhook_hosts": [receiver.host], "webhook_secret": SECRET}
    return settings.model_copy(update=changes)


@pytest.fixture
def http(hooked: Settings, tiny: Checkpoint, serving: Serving) -> Iterator[httpx.Client]:
    with (
        serving(create_app(hooked, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def submit(http: httpx.Client, url: str) -> httpx.Response:
    body = {"documents": [ITEM, {"document": "€"}], "webhook_url": url}
    return http.post("/write/batch", json=body, headers=ASYNC)


def verified(receiver: Receiver) -> tuple[str, dict[str, Any]]:
    headers, body = receiver.requests.get(timeout=30)
    event: dict[str, Any] = Webhook(SECRET).verify(body, headers)
    assert event == json.loads(body)
    return headers["webhook-id"], event


def test_the_end_of_a_job_is_told(http: httpx.Client, receiver: Receiver) -> None:
    job = submit(http, receiver.url).json()
    message_id, event = verified(receiver)
    assert message_id == f"job_{job['job_id']}"
    assert event["type"] == "job.done"
    assert event["data"] == http.get(f"/jobs/{job['job_id']}").json()
    assert (event["data"]["written"], event["data"]["failed"]) == (1, 1)
    assert event["timestamp"] == event["data"]["ended_at"]
    time.sleep(1.5)
    assert receiver.requests.empty()
    assert 'gradmem_webhooks_total{outcome="delivered"} 1.0' in http.get("/metrics").text


def test_a_webhook_is_sent_until_it_is_received(
    http: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (timedelta(seconds=0.1),) * 3)
    monkeypatch.setattr(webhooks, "POLL_SECONDS", 0.05)
    receiver.statuses = [500, 302, 200]
    submit(http, receiver.url)
    ids = {verified(receiver)[0] for _ in range(3)}
    assert len(ids) == 1
    receiver.statuses = [410]
    submit(http, receiver.url)
    verified(receiver)
    receiver.statuses = [503] * 10
    submit(http, receiver.url)
    for _ in range(4):
        verified(receiver)
    time.sleep(0.5)
    assert receiver.requests.empty()
    metrics = http.get("/metrics").text
    assert 'gradmem_webhooks_total{outcome="failed"} 5.0' in metrics
    assert 'gradmem_webhooks_total{outcome="abandoned"} 2.0' in metrics


def test_a_webhook_outlives_its_service(
    hooked: Settings, tiny: Checkpoint, serving: Serving, receiver: Receiver
) -> None:
    silent = hooked.model_copy(update={"webhook_secret": None})
    for settings in (silent, hooked):
        with (
            serving(create_app(settings, models=Models([tiny]))) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            if settings is silent:
                job = submit(client, receiver.url).json()["job_id"]
                while client.get(f"/jobs/{job}").json()["status"] != "done":
                    time.sleep(0.05)
                assert receiver.requests.empty()
            else:
                assert verified(receiver)[1]["data"]["job_id"] == job


def test_a_webhook_whose_key_is_missing_is_abandoned(
    hooked: Settings, tiny: Checkpoint, serving: Serving, receiver: Receiver
) -> None:
    sealed = {"job_documents": 0, "webhook_secret": None, "encryption_keys": ["ab" * 32]}
    for changes in (sealed, {"encryption_keys": ["cd" * 32]}):
        settings = hooked.model_copy(update=changes)
        with (
            serving(create_app(settings, models=Models([tiny]))) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            if changes is sealed:
                job = submit(client, receiver.url).json()
                client.delete(f"/jobs/{job['job_id']}")
                continue
            deadline = time.monotonic() + 20
            while 'outcome="abandoned"} 1.0' not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert receiver.requests.empty()


def test_the_end_of_a_cancelled_job_is_told(
    hooked: Settings, tiny: Checkpoint, serving: Serving, receiver: Receiver
) -> None:
    settings = hooked.model_copy(update={"job_documents": 0})
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        job = submit(client, receiver.url).json()
        client.delete(f"/jobs/{job['job_id']}")
        assert verified(receiver)[1]["type"] == "job.cancelled"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:1/",
        "http://localhost:{port}/",
        "http://user:word@127.0.0.1:{port}/",
        "http://169.254.169.254/latest/meta-data",
        "ftp://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}x/",
        "http://127.0.0.1:99999/",
        "http://[::1",
        "//127.0.0.1:{port}/",
        "http://other\\@127.0.0.1:{port}/",
    ],
)
def test_other_hosts_are_refused(http: httpx.Client, receiver: Receiver, url: str) -> None:
    problem(submit(http, url.format(port=receiver.server_port)), 422, "webhook")


def test_a_webhook_needs_a_job(http: httpx.Client, receiver: Receiver) -> None:
    body = {**ITEM, "webhook_url": receiver.url}
    problem(http.post("/write", json=body), 422, "invalid-input")
    assert http.post("/write", json=body, headers=ASYNC).status_code == 202


def test_hosts_have_the_port_of_their_scheme() -> None:
    class NoJobs:
        pass

    checker = webhooks.Webhooks(
        NoJobs(),  # type: ignore[arg-type]
        NoJobs(),  # type: ignore[arg-type]
        hosts=["hooks.example"],
        secret=None,
    )
    for url in ("https://hooks.example/a", "http://HOOKS.example:80/a"):
        checker.check(url)
    for url in ("https://hooks.example:8443/", "https://a.hooks.example/"):
        with pytest.raises(WebhookRefusedError):
            checker.check(url)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", SECRET[6:], "whsec_?"])
def test_a_malformed_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="GRADMEM_WEBHOOK_SECRET is not"):
        Settings(webhook_secret=secret)
    with pytest.raises(ValidationError, match="needs GRADMEM_WEBHOOK_SECRET"):
        Settings(webhook_hosts=["a.example"])

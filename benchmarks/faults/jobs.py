"""Measure what jobs lose by `kill -9` of the service that writes their documents."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

import httpx

from benchmarks.reliability_rows import Fault
from benchmarks.serving.process import RunningService, run_service
from gradmem_core.errors import DeviceError
from service.settings import Settings

DOCUMENTS = 20
"Documents of a job."
LATEST_KILL_SECONDS = 1.0
"Latest moment of a kill after the first document of the job was taken."
PAUSE_SECONDS = 0.01
END_SECONDS = 600.0
"Time in which all jobs have to end after the last kill."
LISTED = 1000


def measure_job_kills(
    settings: Settings, documents: Sequence[str], *, store: str, times: int, seed: int
) -> Fault:
    """Measure `kill -9` of the service at random moments while it writes the documents of jobs.

    Args:
        settings: The service's.
        documents: Documents to write in turn.
        store: Name of the store.
        times: Number of kills.
        seed: Seed of the moments.

    Returns:
        The row: `acknowledged` documents were accepted, those that are `lost` have no memory, and
        those that are `wrong` have several, or a result that names another.
    """
    moments, jobs = random.Random(seed), list[str]()  # noqa: S311
    for _ in range(times):
        with run_service(settings) as service, httpx.Client(base_url=service.url) as http:
            jobs.append(_submit(http, documents))
            _kill(service, http, jobs[-1], moments.uniform(0, LATEST_KILL_SECONDS))
    with run_service(settings) as service, httpx.Client(base_url=service.url) as http:
        began = time.monotonic()
        while any(http.get(f"/jobs/{job}").json()["ended_at"] is None for job in jobs):
            if time.monotonic() - began > END_SECONDS:
                raise DeviceError(f"the jobs did not end within {END_SECONDS:g} s")
            time.sleep(1)
        lost, wrong = _audit(http, jobs)
    return Fault(
        fault="service killed during jobs",
        store=store,
        times=times,
        acknowledged=times * DOCUMENTS,
        deleted=0,
        refused=0,
        cut=0,
        unanswered=0,
        lost=lost,
        wrong=wrong,
        undeleted=0,
        ready=None,
    )


def _submit(http: httpx.Client, documents: Sequence[str]) -> str:
    """Have documents accepted, whose names tell them apart; return the id of their job."""
    name = os.urandom(8).hex()
    body = [
        {"document": document, "name": f"{name} {number}", "steps": 1, "verify": False}
        for number, document in enumerate(islice(cycle(documents), DOCUMENTS))
    ]
    response = http.post(
        "/write/batch", json={"documents": body}, headers={"Prefer": "respond-async"}
    )
    return str(response.raise_for_status().json()["job_id"])


def _kill(service: RunningService, http: httpx.Client, job: str, moment: float) -> None:
    """Kill the service some time after it has begun a job."""
    assert service.pid is not None
    while http.get(f"/jobs/{job}").json()["status"] == "queued":
        time.sleep(PAUSE_SECONDS)
    time.sleep(moment)
    os.kill(service.pid, signal.SIGKILL)


def _audit(http: httpx.Client, jobs: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of accepted documents without a memory, and with a wrong one."""
    memories = _list_memories(http)
    times_written = Counter(memories.values())
    lost = wrong = 0
    for job in jobs:
        for result in http.get(f"/jobs/{job}/results").json()["results"]:
            memory = (result or {}).get("memory")
            if memory is None or memory["memory_id"] not in memories:
                lost += 1
            else:
                named = memories[memory["memory_id"]]
                wrong += named != memory["name"] or times_written[named] > 1
    return lost, wrong


def _list_memories(http: httpx.Client) -> dict[str, str]:
    """Return the names of all memories by their ids."""
    memories: dict[str, str] = {}
    parameters: dict[str, str | int] = {"limit": LISTED}
    while True:
        part = http.get("/memories", params=parameters).raise_for_status().json()
        memories |= {memory["memory_id"]: memory["name"] for memory in part["memories"]}
        if part["next_cursor"] is None:
            return memories
        parameters["cursor"] = part["next_cursor"]

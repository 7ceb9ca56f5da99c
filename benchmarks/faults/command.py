"""`gradmem-bench faults`: break stores and processes under load, and count what is lost."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import Measurement
from benchmarks.faults.faults import FAULTS
from benchmarks.faults.jobs import measure_job_kills
from benchmarks.faults.measurement import measure_kills, measure_redis_fault
from benchmarks.faults.redis_server import APPEND_ONLY, RedisServer
from benchmarks.options import CheckpointOption, Seed, one_of, separated
from benchmarks.reliability_rows import Fault
from benchmarks.results import subject_of
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.process import run_service
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from service.settings import Settings

SECTIONS = ("sqlite", "redis", "redis-kills", "sqlite-jobs", "redis-jobs")
DIFFERENT = 64
"Different documents that are written in turn."


@dataclass(frozen=True)
class FaultRun:
    """The options of a run."""

    checkpoint: str
    documents: Sequence[str]
    kills: int
    seconds: float
    workers: int
    seed: int

    def measure(self, section: str, folder: Path) -> Iterator[Fault]:
        """Measure a section, with its files in a folder."""
        kind, _, load = section.partition("-")
        kill = self._kill_worker if load == "jobs" else self._kill_service
        if kind == "sqlite":
            yield kill(f"sqlite:///{folder}/service.db", "SQLite")
            return
        with RedisServer(folder, APPEND_ONLY) as server:
            if section == "redis":
                yield from self._break_redis(server)
            else:
                yield kill(server.url, "Redis")

    def _kill_service(self, store_url: str, store: str) -> Fault:
        return measure_kills(
            Settings(checkpoints=[self.checkpoint], store_url=store_url),
            self.documents,
            store=store,
            times=self.kills,
            workers=self.workers,
            seed=self.seed,
        )

    def _kill_worker(self, store_url: str, store: str) -> Fault:
        return measure_job_kills(
            Settings(checkpoints=[self.checkpoint], store_url=store_url),
            self.documents,
            store=store,
            times=self.kills,
            seed=self.seed,
        )

    def _break_redis(self, server: RedisServer) -> Iterator[Fault]:
        settings = Settings(checkpoints=[self.checkpoint], store_url=server.url)
        with run_service(settings) as service:
            for fault in FAULTS:
                measuring = measure_redis_fault(
                    service.url,
                    server,
                    fault,
                    self.documents,
                    seconds=self.seconds,
                    workers=self.workers,
                )
                yield asyncio.run(measuring)


def measure_faults(
    checkpoint: CheckpointOption = "kv-16",
    only: Annotated[
        Sequence[str],
        separated(parse=one_of(SECTIONS), metavar="SECTIONS", help="Sections to measure."),
    ] = SECTIONS,
    kills: Annotated[
        int, typer.Option(min=1, help="Number of times the service is killed, for each store.")
    ] = 200,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of each fault of Redis, in seconds.")
    ] = 30,
    workers: Annotated[int, typer.Option(min=1, help="Writers at a time.")] = 8,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs in a document.")] = 4,
    seed: Seed = 1,
) -> Measurement:
    """Break the store or the service under load, and count what acknowledged WRITEs are lost.

    `sqlite` and `redis-kills` kill the service at random moments (`kill -9`), `sqlite-jobs` and
    `redis-jobs` while it writes the documents of jobs; `redis` kills, pauses and fills Redis, cuts
    its connections and changes its password. Redis writes every change to its append-only file
    before it answers (`appendfsync always`).
    """
    subject = subject_of(load_checkpoint(checkpoint))
    documents = [example.context for example in draw_documents(DIFFERENT, pairs=pairs, seed=seed)]
    run = FaultRun(checkpoint, documents, kills, seconds, workers, seed)

    def rows() -> Iterator[Fault]:
        for section in only:
            typer.echo(section, err=True)
            with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
                yield from run.measure(section, Path(folder))

    return Measurement(topic="serving", rows=rows(), subject=subject)

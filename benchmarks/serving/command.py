"""`gradmem-bench serving`: put a service under load, and look at what its device does."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Annotated

import torch
import typer

from benchmarks.command import Measurement
from benchmarks.options import CheckpointOption, Seed, one_of, separated
from benchmarks.results import Row, subject_of
from benchmarks.serving.break_even import measure_break_even
from benchmarks.serving.company import measure_company
from benchmarks.serving.cores import part_cores, restricted_to
from benchmarks.serving.device import measure_device
from benchmarks.serving.growth import measure_growth
from benchmarks.serving.overload import measure_overload
from benchmarks.serving.process import RunningService, run_service
from benchmarks.serving.targets import EngineTarget, HttpTarget, run_in
from benchmarks.serving.throughput import Throughput
from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.errors import InputError
from service.client import Client
from service.engine.threads import leave_cores_to_the_engine
from service.settings import Settings

ANOTHER = "127.0.0.2"
"Address of the loopback interface from which another client connects."
SECTIONS = ("write", "read", "break-even", "device", "overload", "growth", "company")


@dataclass
class ServingRun:
    """The options of a run, and what it has measured so far."""

    url: str | None
    checkpoint: str
    only: Sequence[str]
    seconds: float
    overload_seconds: float
    requests: int
    runs: int
    seed: int
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def measure(self, settings: Settings, threads: int) -> None:
        """Measure every section.

        Args:
            settings: The service's.
            threads: CPU threads of whatever computes.
        """
        with _start_process(threads) as elsewhere:
            if self._begins("break-even"):
                rows, notes = await run_in(
                    elsewhere, measure_break_even, self.checkpoint, runs=self.runs, seed=self.seed
                )
                self.rows += rows
                self.notes += notes
            if self._begins("device"):
                self.rows += await run_in(
                    elsewhere, measure_device, self.checkpoint, runs=self.runs, seed=self.seed
                )
            if self._begins("company"):
                self.rows += await measure_company(
                    settings, threads=threads, seconds=self.seconds, runs=self.runs, seed=self.seed
                )
            if {"write", "read"} & set(self.only):
                await self._measure_load(settings, threads, elsewhere)
        if self._begins("overload"):
            await self._measure_overload(settings)
        if self._begins("growth"):
            await self._measure_growth(settings)

    async def _measure_load(self, settings: Settings, threads: int, elsewhere: Executor) -> None:
        """Measure the service beside an engine in this process."""
        update = {"threads": threads, "store_url": f"{settings.store_url}.engine"}
        with self._service(settings) as service:
            async with (
                aclosing(HttpTarget(service.url, elsewhere)) as http,
                EngineTarget.start(settings.model_copy(update=update)) as engine,
            ):
                throughput = Throughput(
                    (http, engine), elsewhere, self.checkpoint, self.seconds, self.runs, self.seed
                )
                if self._begins("write"):
                    self.rows += await throughput.measure_writes()
                if self._begins("read"):
                    self.rows += await throughput.measure_reads()

    async def _measure_overload(self, settings: Settings) -> None:
        """Measure an overload that comes from a core of its own, to a service on the others."""
        own, others = part_cores()
        alone = others - own if self.url is None else set()
        with ExitStack() as stack:
            with restricted_to(others):
                service = stack.enter_context(self._service(settings))
            stack.enter_context(restricted_to(own))
            async with (
                aclosing(HttpTarget(service.url)) as http,
                aclosing(HttpTarget(service.url, address=ANOTHER)) as other,
            ):
                for run in range(1, self.runs + 1):
                    self.rows += await measure_overload(
                        http,
                        other,
                        run=run,
                        service_cores=len(alone) or None,
                        seconds=self.seconds,
                        overload_seconds=self.overload_seconds,
                        seed=self.seed + run,
                    )

    async def _measure_growth(self, settings: Settings) -> None:
        """Measure the memory of the service's processes over many requests."""
        with self._service(settings) as service:
            footprints = await measure_growth(
                service.url, service.resident_bytes, requests=self.requests, seed=self.seed
            )
        self.rows += footprints
        if not footprints:
            self.notes.append("growth: the memory of the service's process cannot be seen")

    @contextmanager
    def _service(self, settings: Settings) -> Iterator[RunningService]:
        """Give the service that is running, or one that runs as long as the body.

        Raises:
            InputError: It serves another checkpoint.
        """
        if self.url is None:
            with run_service(settings) as service:
                yield service
            return
        ours = load_checkpoint(self.checkpoint)
        with Client(self.url) as client:
            theirs = client.models()[0]
        if theirs.fingerprint != ours.fingerprint:
            raise InputError(
                f"the service's first model is {theirs.name}, and its fingerprint is not that of"
                f" {ours.name}; give the service's own checkpoint (--checkpoint)"
            )
        yield RunningService(self.url, pid=None)

    def _begins(self, section: str) -> bool:
        """Return whether to measure a section; announce it if so."""
        if section in self.only:
            typer.echo(section, err=True)
        return section in self.only


def _start_process(threads: int) -> ProcessPoolExecutor:
    """Start a process that does one thing at a time.

    Two threads of a process that both compute have more OpenMP threads between them than there are
    cores. libgomp then lets them sleep where they otherwise spin for each other, and two cores are
    no faster than one. So the process that runs the engine computes nothing but what the engine
    does.
    """
    return ProcessPoolExecutor(
        1,
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(threads,),
    )


def measure_serving(
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A running service; one is started by default."),
    ] = None,
    checkpoint: CheckpointOption = "kv-96",
    only: Annotated[
        Sequence[str],
        separated(parse=one_of(SECTIONS), metavar="SECTIONS", help="Sections to measure."),
    ] = SECTIONS,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of each load measurement, in seconds.")
    ] = 10,
    overload_seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of the overload, in seconds.")
    ] = 60,
    requests: Annotated[
        int, typer.Option(min=1, help="Number of requests of the growth measurement.")
    ] = 100_000,
    runs: Annotated[int, typer.Option(min=1, help="Number of times each figure is measured.")] = 3,
    seed: Seed = 1,
) -> Measurement:
    """Measure the service under load, and what its device does with time and memory.

    Through HTTP the service runs in processes of its own; in-process figures, those of the device
    and ratios between them are of this machine, which should have nothing else to do. An overload
    is sent from one core, and a service that is started for it has the others, if there are any.
    """
    threads = leave_cores_to_the_engine(Settings().threads)
    subject = subject_of(load_checkpoint(checkpoint))
    run = ServingRun(url, checkpoint, only, seconds, overload_seconds, requests, runs, seed)
    with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
        settings = Settings(checkpoints=[checkpoint], store_url=f"sqlite:///{folder}/service.db")
        asyncio.run(run.measure(settings, threads))
    torch.set_num_threads(threads)  # which the result names
    return Measurement(topic="serving", rows=run.rows, subject=subject, notes=tuple(run.notes))

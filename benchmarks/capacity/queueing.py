"""`gradmem-bench queueing`: the queue of a service beside its simulation and the formula."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal

import httpx
import torch
import typer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.capacity.constants import fit_speed
from benchmarks.capacity.simulation import Handled, Simulation
from benchmarks.capacity.step_times import time_steps
from benchmarks.command import Measurement
from benchmarks.options import CheckpointName, Seed, separated
from benchmarks.results import subject_of
from benchmarks.rows import OpenLoad
from benchmarks.serving.arrivals import random_times
from benchmarks.serving.documents import draw_documents
from benchmarks.serving.overload import Sent, send_at_random
from benchmarks.serving.process import run_service
from benchmarks.serving.targets import HttpTarget
from benchmarks.serving.throughput import BATCH, DIFFERENT, PAIRS, STEPS
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from service.app import admission_limits
from service.capacity.arithmetic import ModelShape
from service.capacity.constants import Rate
from service.capacity.queueing import Demand, predict_latency
from service.devices import batch_limits
from service.load import measure_load, percentiles
from service.settings import Settings

TIMED_BATCHES = (1, 8, 16)
TIMED_ROUNDS = 5
Source = Literal["measured", "simulated", "simulated with its own step times", "formula"]


@dataclass(frozen=True)
class Steps:
    """Gradient steps that a service has made, by its metrics."""

    count: float
    documents: float
    seconds: float

    def since(self, before: "Steps") -> "Steps":
        """Return those made after others."""
        return Steps(
            self.count - before.count,
            self.documents - before.documents,
            self.seconds - before.seconds,
        )


@dataclass(frozen=True)
class Scene:
    """The common part of all loads of a run."""

    checkpoint: Checkpoint
    shape: ModelShape
    settings: Settings
    tokens: int
    "Tokens of every document."
    rate: Rate
    "Speed of gradient steps, timed before."
    seed: int


def _positive(text: str) -> float:
    """Read a number above 0.

    Raises:
        ValueError: It is none.
    """
    if not float(text) > 0:
        raise ValueError(f"{text!r} is not above 0")
    return float(text)


def measure_queueing(
    checkpoint: CheckpointName = "kv-96",
    factors: Annotated[
        Sequence[float],
        separated(
            parse=_positive, help="Rates of requests, in multiples of the capacity.", metavar="N,N"
        ),
    ] = (0.5, 0.8, 4.0),
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of each measurement, in seconds.")
    ] = 30,
    seed: Seed = 1,
) -> Measurement:
    """Hold the simulated and the calculated queue of WRITE against a running service.

    The service runs with one thread in a process of its own. Its gradient steps are timed before,
    and again by its own metrics in each load: what the simulation misses with the latter is due to
    the queue alone.
    """
    torch.set_num_threads(1)
    busy = f"load average of the machine before: {os.getloadavg()[0]:.1f}"
    loaded, shape = load_checkpoint(checkpoint), ModelShape.load(checkpoint)
    documents = draw_documents(DIFFERENT, pairs=PAIRS, seed=seed)
    tokens = len(loaded.tokenizer.encode(documents[0].context))
    steps = [
        row
        for row in time_steps(
            loaded,
            shape,
            tokens=[tokens],
            batches=TIMED_BATCHES,
            rounds=TIMED_ROUNDS,
            seed=seed,
        )
        if row.operation == "write"
    ]
    rate = fit_speed(steps, [row.seconds for row in steps], shape, "this run")
    with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
        settings = Settings(
            checkpoints=[checkpoint], store_url=f"sqlite:///{folder}/service.db", threads=1
        )
        scene = Scene(loaded, shape, settings, tokens, rate, seed)
        rows = asyncio.run(_measure_loads(scene, factors, seconds=seconds))
    return Measurement("serving", [*steps, *rows], subject_of(loaded), notes=(busy,), seed=seed)


async def _measure_loads(
    scene: Scene, factors: Sequence[float], *, seconds: float
) -> list[OpenLoad]:
    documents = draw_documents(DIFFERENT, pairs=PAIRS, seed=scene.seed)
    rows: list[OpenLoad] = []
    with run_service(scene.settings, {"GRADMEM_THREADS": "1"}) as service:
        async with aclosing(HttpTarget(service.url)) as target:
            requests = target.writes(documents, steps=STEPS)
            for factor in factors:
                loop = await measure_load(requests, concurrency=BATCH, seconds=seconds / 2)
                before = _read_steps(service.url)
                offered = factor * loop.throughput
                sent, length = await send_at_random(
                    requests, rate=offered, seconds=seconds, seed=scene.seed
                )
                made = _read_steps(service.url).since(before)
                own = slowed(scene, made)
                load = OfferedLoad(loop.throughput, offered, length)
                rows.append(load.measured(sent))
                rows.append(load.simulated(scene, scene.rate, "simulated"))
                rows.append(load.simulated(scene, own, "simulated with its own step times"))
                rows += load.calculated(scene, own, len(sent))
    return rows


def slowed(scene: Scene, made: Steps) -> Rate:
    """Return the rate at which the service really made its gradient steps."""
    flop = made.documents * scene.shape.gradient_step_flop(scene.tokens)
    flop += made.documents / STEPS * scene.shape.scoring_flop(scene.tokens)
    factor = made.seconds / (made.count * scene.rate.pass_seconds + flop / scene.rate.flops)
    return scene.rate.model_copy(
        update={
            "pass_seconds": scene.rate.pass_seconds * factor,
            "flops": scene.rate.flops / factor,
        }
    )


@dataclass(frozen=True)
class OfferedLoad:
    """WRITE requests at random times."""

    capacity: float
    offered: float
    seconds: float

    def measured(self, sent: Sequence[Sent]) -> OpenLoad:
        """Describe what became of requests that were sent."""
        start = min(began for _, (began, _) in sent)
        done = [span for outcome, span in sent if outcome == "succeeded"]
        return self._row(
            "measured",
            spans=[(began - start, ended - start) for began, ended in done],
            sent=len(sent),
            refused=sum(outcome == "refused" for outcome, _ in sent),
        )

    def simulated(self, scene: Scene, rate: Rate, source: Source) -> OpenLoad:
        """Simulate the requests, after a closed loop like the measured one."""
        simulation = Simulation(
            scene.checkpoint,
            scene.shape,
            rate,
            batch_limits=batch_limits(scene.settings),
            admission_limits=admission_limits(scene.settings),
        )
        work = {"tokens": scene.tokens, "steps": STEPS}
        simulation.keep_busy(workers=BATCH, seconds=self.seconds / 2, **work)
        start = simulation.now
        simulation.handled.clear()
        simulation.send_at(random_times(self.offered, self.seconds, scene.seed), **work)
        handled = simulation.handled
        return self._row(
            source,
            spans=[(each.began - start, each.ended - start) for each in _done(handled)],
            sent=len(handled),
            refused=sum(each.refused for each in handled),
        )

    def calculated(self, scene: Scene, rate: Rate, sent: int) -> Iterator[OpenLoad]:
        """Calculate the latency, where the device keeps up."""
        flop = scene.shape.write_flop(scene.tokens, STEPS)
        demand = Demand(STEPS, STEPS * rate.pass_seconds, flop / rate.flops)
        offered = sent / self.seconds
        if offered * demand.work < 1:
            latency = predict_latency(demand, offered)
            yield OpenLoad(
                source="formula",
                pairs=PAIRS,
                steps=STEPS,
                capacity=self.capacity,
                offered=offered,
                sent=sent,
                refused=0,
                failed=0,
                goodput=offered,
                p50=latency.mean,
                p99=latency.p99,
            )

    def _row(
        self, source: Source, *, spans: Sequence[tuple[float, float]], sent: int, refused: int
    ) -> OpenLoad:
        """Describe requests.

        Args:
            source: How they came about.
            spans: Start and end of those that were answered, from the start of the load.
            sent: Number of all.
            refused: Number of those that were refused.
        """
        p50, p99 = percentiles([end - start for start, end in spans]) if spans else (None, None)
        return OpenLoad(
            source=source,
            pairs=PAIRS,
            steps=STEPS,
            capacity=self.capacity,
            offered=sent / self.seconds,
            sent=sent,
            refused=refused,
            failed=sent - refused - len(spans),
            goodput=sum(end <= self.seconds for _, end in spans) / self.seconds,
            p50=p50,
            p99=p99,
        )


def _done(handled: Sequence[Handled]) -> list[Handled]:
    return [each for each in handled if not each.refused]


def _read_steps(url: str) -> Steps:
    """Read the gradient steps that a service has made."""
    text = httpx.get(f"{url}/metrics").raise_for_status().text
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("kind") == "write"
    }
    return Steps(
        count=samples["gradmem_step_seconds_count"],
        documents=samples["gradmem_batch_size_sum"],
        seconds=samples["gradmem_step_seconds_sum"],
    )

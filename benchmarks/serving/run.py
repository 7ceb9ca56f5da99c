"""Runs the sections of a plan, one after the other."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurement import header
from benchmarks.serving import loaded
from benchmarks.serving.apart import Apart, apart
from benchmarks.serving.context import contexts
from benchmarks.serving.device import device
from benchmarks.serving.growth import growth
from benchmarks.serving.http import Clients, HttpTarget
from benchmarks.serving.inprocess import running_engine
from benchmarks.serving.overload import overload
from benchmarks.serving.plan import LOADED, Plan, Section
from benchmarks.serving.results import BenchResult
from benchmarks.serving.serving import Served, served
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import InputError
from service.client import Client
from service.engine.threads import leave_cores_to_the_engine
from service.settings import Settings

Tell = Callable[[str], None]


@dataclass
class _Findings:
    """Sections as they are measured, by the names of `BenchResult`'s fields."""

    sections: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(plan: Plan, *, command: str, tell: Tell) -> BenchResult:
    """Measure what the plan asks for.

    Args:
        plan: What to measure.
        command: The command line, for the result.
        tell: Is told of each section that begins.

    Raises:
        GradMemError: The checkpoint cannot be used, or the service did not start.
        ClientError: The service cannot be reached, or answers nothing.
        ArithmeticError: What is compared does not compute the same.
    """
    started = time.perf_counter()
    findings = _Findings()
    with tempfile.TemporaryDirectory(prefix="gradmem-bench-") as folder:
        settings = Settings(
            checkpoints=[plan.checkpoint], store_url=f"sqlite:///{Path(folder, 'service.db')}"
        )
        threads = leave_cores_to_the_engine(settings.threads)
        checkpoint = load_checkpoint(plan.checkpoint)
        with apart(plan.checkpoint, threads=threads) as other:
            asyncio.run(_alone(other, plan, findings, tell))
            if LOADED & set(plan.sections):
                with _service(plan, settings, checkpoint) as service:
                    inside = Settings(
                        checkpoints=[plan.checkpoint],
                        threads=threads,
                        store_url=f"sqlite:///{Path(folder, 'engine.db')}",
                    )
                    asyncio.run(_loaded(service, inside, other, plan, findings, tell))
    torch.set_num_threads(threads)
    about = header(command, seed=plan.seed, started=started)
    return BenchResult(
        **about.model_dump(),
        checkpoint=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        notes=tuple(findings.notes),
        **findings.sections,
    )


async def _alone(other: Apart, plan: Plan, findings: _Findings, tell: Tell) -> None:
    """The sections that need no service."""
    if "context" in plan.sections:
        tell("context")
        rows, notes = await other.run(contexts, plan)
        findings.sections["context"] = tuple(rows)
        findings.notes += notes
    if "device" in plan.sections:
        tell("device")
        findings.sections["device"] = await other.run(device, plan)


async def _loaded(
    service: Served,
    inside: Settings,
    other: Apart,
    plan: Plan,
    findings: _Findings,
    tell: Tell,
) -> None:
    """The sections that need a service."""
    wanted: set[Section] = set(plan.sections)
    async with aclosing(Clients(service.url)) as clients:
        outside = HttpTarget(service.url, clients)
        if wanted & {"write", "read"}:
            async with running_engine(inside) as engine:
                targets = (outside, engine)
                if "write" in wanted:
                    tell("write")
                    findings.sections["write"] = await loaded.writes(targets, other, plan)
                if "read" in wanted:
                    tell("read")
                    findings.sections["read"] = await loaded.reads(targets, other, plan)
        if "overload" in wanted:
            tell("overload")
            findings.sections["overload"] = await overload(outside, plan)
    if "growth" in wanted:
        tell("growth")
        found = await growth(service.url, service.resident_bytes, plan)
        findings.sections["growth"] = found
        if found is None:
            findings.notes.append("growth: the memory of the service's process cannot be seen")


@contextmanager
def _service(plan: Plan, settings: Settings, checkpoint: Checkpoint) -> Iterator[Served]:
    """The service to measure: the plan's, or one that runs as long as the body."""
    if plan.url is None:
        with served(settings) as service:
            yield service
        return
    with Client(plan.url) as client:
        found = client.models()[0]
    if found.fingerprint != checkpoint.fingerprint:
        raise InputError(
            f"the service's first model is {found.name} of another fingerprint than"
            f" {checkpoint.name}: name its checkpoint, or ratios would compare different models"
        )
    yield Served(plan.url, pid=None)

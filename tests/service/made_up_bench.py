"""A result of `gradmem bench` with round figures that nobody measured."""

from datetime import UTC, datetime

from benchmarks.measurement import Machine
from benchmarks.serving.results import (
    BenchResult,
    ContextRow,
    DeviceSection,
    Efficiency,
    Footprint,
    GrowthSection,
    Load,
    Mixed,
    Operation,
    OverloadSection,
    Peak,
    ReadSection,
    ReadTime,
    Unrolled,
    Via,
    WriteSection,
)


def load_of(via: Via, concurrency: int, throughput: float, *, p99: float = 0.2) -> Load:
    return Load(
        via=via,
        concurrency=concurrency,
        seconds=10.0,
        throughput=throughput,
        p50=0.1,
        p99=p99,
        answered=1000,
        failures={"Overloaded": 2} if concurrency == 128 else {},
    )


def write_run(speed: float) -> tuple[Load, ...]:
    return (
        load_of("HTTP", 1, 5 * speed),
        load_of("in-process", 1, 10 * speed),
        load_of("HTTP", 32, 18 * speed),
        load_of("in-process", 32, 19 * speed),
        load_of("ready batches", 32, 20 * speed),
        load_of("HTTP", 128, 20 * speed),
    )


def mixed(via: Via, saturated: float) -> Mixed:
    return Mixed(
        via=via,
        idle=load_of(via, 4, 100.0, p99=0.1),
        saturated=load_of(via, 4, 50.0, p99=saturated),
        writes=load_of(via, 32, 20.0),
        step=0.1,
    )


def overload(*, failed: int = 0, goodput: float = 19.0) -> OverloadSection:
    return OverloadSection(
        pairs=16,
        steps=5,
        before=load_of("HTTP", 32, 19.0),
        after=load_of("HTTP", 32, 21.0),
        offered=80.0,
        seconds=60.0,
        sent=4800,
        succeeded=1200,
        refused=3600 - failed,
        failed=failed,
        unanswered=0,
        goodput=goodput,
        p50=1.5,
        p99=2.5,
    )


DEVICE = DeviceSection(
    efficiency=(
        Efficiency(
            batch=32,
            pairs=16,
            steps=5,
            write_flop=6 * 10**9,
            write=2.0,
            gemm_flop=10**9,
            gemm=0.25,
        ),
    ),
    unrolled=tuple(
        Unrolled(
            batch=batch,
            pairs=pairs,
            steps=5,
            serving=(1.0, 1.0),
            unrolled=(2.0, 4.0),
            serving_bytes=2**20,
            unrolled_bytes=10 * 2**20,
        )
        for pairs, batch in ((16, 32), (96, 8))
    ),
    peaks=tuple(
        Peak(batch=batch, pairs=16, steps=steps, bytes=batch * 2**20)
        for batch in (1, 8)
        for steps in (1, 5)
    ),
    read_times=(ReadTime(short_pairs=4, short=0.01, long_pairs=96, long=0.012),),
    profile=(
        Operation(name="aten::mm", calls=100, seconds=0.75),
        Operation(name="all others", calls=900, seconds=0.25),
    ),
)


def result() -> BenchResult:
    return BenchResult(
        command="gradmem bench",
        commit="unknown",
        machine=Machine(cpu="abacus", cores=2, threads=2, torch="2"),
        seed=1,
        seconds=60.0,
        date=datetime(2026, 11, 23, tzinfo=UTC),
        checkpoint="kv-32",
        fingerprint="f" * 64,
        notes=("something: for a reason",),
        write=WriteSection(pairs=16, steps=5, runs=(write_run(1), write_run(2), write_run(3))),
        read=ReadSection(
            pairs=16,
            steps=5,
            runs=(
                (
                    load_of("HTTP", 1, 100.0),
                    load_of("in-process", 1, 100.0),
                    load_of("HTTP", 64, 500.0),
                    load_of("in-process", 64, 900.0),
                ),
            ),
            mixed=((mixed("HTTP", 0.4), mixed("in-process", 0.2)),),
        ),
        context=(
            ContextRow(
                pairs=4,
                tokens=29,
                batch=1,
                steps=5,
                write=0.5,
                read=0.01,
                prefill=0.1,
                cached=0.03,
                reread=0.06,
                memory_bytes=4096,
                cache_bytes=118784,
                text_bytes=29,
            ),
        ),
        device=DEVICE,
        overload=overload(),
        growth=GrowthSection(
            failed=0,
            footprints=tuple(
                Footprint(requests=requests, bytes=held * 2**20)
                for requests, held in ((500, 90), (1000, 100), (2000, 104))
            ),
        ),
    )

"""The plan: devices, Redis, network and cost for a load, and what gives way first."""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gradmem_core.config import BlobDtype
from gradmem_core.errors import InputError
from gradmem_core.writing.compression import READ_AT_A_TIME
from gradmem_core.writing.verification import BEGINNING, CONTINUED, MAX_PROBES
from service.capacity.arithmetic import ModelShape, record_bytes
from service.capacity.constants import Constants, DeviceRates, Rate
from service.capacity.queueing import Demand, find_rate, predict_latency
from service.engine import Operation

PATIENCE = 3
"Time that 99 in 100 requests may take where no limit is set, in multiples of one alone."
REWRITTEN = 2
"Times that a page is written and read back at most: a weak one again, in halves."
PROBE_QUERY_TOKENS = 2 * BEGINNING
"Tokens of a probe: the beginning of a sentence, and its prompt."
LISTED = 2
"Entries of the index of a memory without name, metadata and expiry: its tenant, and its model."
PER_MILLION = 1_000_000
SECONDS_PER_HOUR = 3600
BITS = 8
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Workload(BaseModel):
    """The requests of a service, and their bounds in time and room."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    documents_per_second: Amount
    reads_per_second: Amount
    tokens: Count
    "Tokens of a document."
    queries: Count = 1
    "Queries of a READ."
    query_tokens: Count = 16
    "Tokens of a query, with the checkpoint's template."
    answer_tokens: Count = 8
    "Tokens of an answer, with its end."
    memories: Count = 1_000_000
    "Memories that are kept."
    tenants: Count = 1
    "Tenants that they belong to, in equal parts."
    dtype: BlobDtype = "int8"
    "Type of the stored elements."
    verify: bool = True
    "Read every page back, and write weak ones again."
    write_p99: Positive | None = None
    "Seconds that 99 in 100 WRITEs may take; `PATIENCE` times one alone by default."
    read_p99: Positive | None = None
    "The same of READ."
    utilisation: Share = 0.7
    "Most of a device's time, of a front end's, and of a Redis primary's, that is planned for."
    batch_tokens: Count = 2048
    "GRADMEM_MAX_BATCH_TOKENS."
    batch_queries: Count = 512
    "GRADMEM_MAX_BATCH_QUERIES."
    redis_bytes: Positive = 64 * 2.0**30
    "Memory of one Redis primary."
    network_bits: Positive = 10e9
    "Bits a second of its network."
    price: Amount | None = None
    "Price of a device for an hour."


class Pool(BaseModel):
    """The devices of one operation."""

    devices: int
    spare: float
    "Share of their time that stays free."
    device_seconds: float
    "Time of a device for one request in a full batch."
    alone: float
    "Seconds of a request on an idle device."
    p99: float
    "Seconds that 99 in 100 requests take at the planned load, by the formula."
    bound_by: str
    "The bound on a device's requests: its time, the latency, the batch, or the front end."
    device_hours_per_million: float | None
    "Of requests; None where there are none."
    cost_per_million: float | None
    "In the price's currency; None without a price."


class Limit(BaseModel):
    """A resource of which one unit has so much."""

    resource: str
    use: float
    "Need of the load in multiples of what one has, with room to spare."
    remedy: str


class Plan(BaseModel):
    """The plan for a load."""

    model: str
    device: str
    basis: str
    "`measured`, or `inferred` from training."
    pages: int
    "Pages of a document."
    write: Pool
    read: Pool
    record_bytes: int
    "Bytes of a memory's record."
    redis_bytes: float
    "Bytes of all memories in Redis, with their index."
    redis_primaries: int
    "Primaries of a Redis Cluster, or one."
    store_bits: float
    "Bits a second between services and Redis."
    days_to_fill: float | None
    "Days in which the documents make up the memories; None without documents."
    limits: list[Limit]
    "The scarcest first."
    sources: list[str]
    "Results that the constants are from."


def make_plan(load: Workload, shape: ModelShape, constants: Constants, device: str) -> Plan:
    """Compute a plan.

    Args:
        load: The load.
        shape: The checkpoint's.
        constants: Measured constants.
        device: Kind of device, by its name in the constants.

    Raises:
        InputError: There is no such device, or a request cannot keep within its limit.
    """
    if device not in constants.devices:
        raise InputError(
            f"there are no constants of the device {device!r}: use one of"
            f" {', '.join(constants.devices)}, or measure yours (docs/SCALING.md)"
        )
    rates = constants.devices[device]
    pages = len(shape.pages_of(load.tokens))
    write = _plan_pool(
        load,
        constants,
        rate=load.documents_per_second,
        demand=write_demand(load, shape, constants, rates),
        p99=load.write_p99,
        most=load.batch_tokens / load.tokens,
    )
    read = _plan_pool(
        load,
        constants,
        rate=load.reads_per_second,
        demand=read_demand(load, shape, rates),
        p99=load.read_p99,
        most=load.batch_queries / (pages * load.queries),
    )
    record = record_bytes(shape, load.tokens, load.dtype, name=None)
    stored = _bytes_in_redis(record, constants)
    moved = BITS * record * (load.documents_per_second + load.reads_per_second)
    redis = _redis_limits(load, constants, stored, moved)
    index = _index_limit(load, constants)
    return Plan(
        model=shape.name,
        device=rates.title,
        basis=rates.basis,
        pages=pages,
        write=write,
        read=read,
        record_bytes=record,
        redis_bytes=load.memories * stored,
        redis_primaries=max(1, *(math.ceil(limit.use) for limit in redis)),
        store_bits=moved,
        days_to_fill=_days(load),
        limits=sorted(
            [*redis, index, *_other_limits(load, constants, write, read)],
            key=lambda limit: -limit.use,
        ),
        sources=sorted(
            {
                rates.rate("write", shape).source,
                rates.rate("read", shape).source,
                constants.http.source,
                constants.redis.source,
                constants.read_back.source,
            }
        ),
    )


def write_demand(
    load: Workload, shape: ModelShape, constants: Constants, rates: DeviceRates
) -> Demand:
    """Return the work of a WRITE; at the worst, where every page is weak and written again."""
    pages, steps = shape.pages_of(load.tokens), shape.memory.write_steps
    rate = rates.rate("write", shape)
    flop = sum(shape.write_flop(tokens, steps) for tokens in pages)
    written = _demand(rate, passes=steps, flop=flop)
    if not (load.verify and shape.reads_back):
        return written
    back = _read_back_demand(shape, pages, constants, rates.rate("read", shape))
    return Demand(
        passes=REWRITTEN * (written.passes + back.passes),
        overhead=REWRITTEN * (written.overhead + back.overhead),
        work=REWRITTEN * (written.work + back.work),
    )


def read_demand(load: Workload, shape: ModelShape, rates: DeviceRates) -> Demand:
    """Return the work of a READ of a memory that no earlier one has left in the cache."""
    pages = len(shape.pages_of(load.tokens))
    flop = pages * shape.prefill_flop() + load.queries * shape.read_flop(
        pages, query_tokens=load.query_tokens, answer_tokens=load.answer_tokens
    )
    return _demand(rates.rate("read", shape), passes=1 + load.answer_tokens, flop=flop)


def _read_back_demand(
    shape: ModelShape, pages: list[int], constants: Constants, rate: Rate
) -> Demand:
    per_probe = constants.read_back.tokens_per_probe
    probes = sum(min(MAX_PROBES, math.ceil(tokens / per_probe)) for tokens in pages)
    flop = len(pages) * shape.prefill_flop() + probes * shape.read_flop(
        1, query_tokens=PROBE_QUERY_TOKENS, answer_tokens=CONTINUED
    )
    turns = math.ceil(len(pages) / READ_AT_A_TIME)
    return _demand(rate, passes=turns * (1 + CONTINUED), flop=flop)


def _demand(rate: Rate, *, passes: int, flop: int) -> Demand:
    return Demand(passes=passes, overhead=passes * rate.pass_seconds, work=flop / rate.flops)


def _plan_pool(
    load: Workload,
    constants: Constants,
    *,
    rate: float,
    demand: Demand,
    p99: float | None,
    most: float,
) -> Pool:
    """Divide requests among as few devices as keep within the limits.

    Args:
        load: The load.
        constants: Measured constants.
        rate: Requests a second.
        demand: The work of a request.
        p99: Most seconds of 99 in 100 requests, if that is limited.
        most: Most requests in a batch.

    Raises:
        InputError: A request alone takes longer.
    """
    longest = PATIENCE * demand.alone if p99 is None else p99
    by_time = load.utilisation / demand.work
    by_batch = find_rate(
        demand, p99=math.inf, utilisation=load.utilisation, most_running=max(1.0, most)
    )
    by_latency = find_rate(demand, p99=longest, utilisation=load.utilisation, most_running=math.inf)
    by_front_end = load.utilisation * constants.http.requests_per_second
    if not by_latency:
        raise InputError(
            f"a request takes {demand.alone:.3g} s on an idle device and waits for up to one"
            f" pass, and 99 in 100 may take {longest:.3g} s: allow more, or send less at a time"
        )
    bounds = {
        "time": by_time,
        "batch": by_batch,
        "latency": by_latency,
        "front end": by_front_end,
    }
    bound_by = min(bounds, key=lambda name: bounds[name])
    devices = math.ceil(rate / bounds[bound_by])
    share = rate / devices if devices else 0.0
    hours = PER_MILLION * devices / (rate * SECONDS_PER_HOUR) if rate else None
    return Pool(
        devices=devices,
        spare=1 - share * demand.work,
        device_seconds=demand.work,
        alone=demand.alone,
        p99=predict_latency(demand, share).p99,
        bound_by=bound_by,
        device_hours_per_million=hours,
        cost_per_million=None if hours is None or load.price is None else hours * load.price,
    )


def _bytes_in_redis(record: int, constants: Constants) -> float:
    """Return the bytes of a memory in Redis, with its entries in the index."""
    costs = constants.redis
    return costs.memory_bytes + costs.value_share * record + LISTED * costs.entry_bytes


def _redis_limits(load: Workload, constants: Constants, stored: float, moved: float) -> list[Limit]:
    """Return the needs of a load in multiples of what one Redis primary has."""
    room = load.utilisation * load.redis_bytes
    costs = constants.redis
    busy = load.documents_per_second * costs.put_seconds + load.reads_per_second * costs.get_seconds
    return [
        Limit(
            resource="memory of a Redis primary",
            use=load.memories * stored / room,
            remedy="a Redis Cluster (redis+cluster://), which spreads memories by their ids; or"
            " let memories expire (ttl_seconds)",
        ),
        Limit(
            resource="processor of a Redis primary",
            use=busy / load.utilisation,
            remedy="a Redis Cluster; its primaries share the commands",
        ),
        Limit(
            resource="network of a Redis primary",
            use=moved / (load.utilisation * load.network_bits),
            remedy="a Redis Cluster, or a faster network: every READ fetches the whole memory",
        ),
    ]


def _index_limit(load: Workload, constants: Constants) -> Limit:
    of_tenant = math.ceil(load.memories / load.tenants)
    return Limit(
        resource="index of a tenant, which one Redis primary holds whole",
        use=of_tenant
        * LISTED
        * constants.redis.entry_bytes
        / (load.utilisation * load.redis_bytes),
        remedy="more tenants: a cluster cannot divide the index of one",
    )


def _other_limits(load: Workload, constants: Constants, write: Pool, read: Pool) -> list[Limit]:
    front_end = load.utilisation * constants.http.requests_per_second
    asked = load.documents_per_second + load.reads_per_second

    def need(operation: Operation, rate: float, pool: Pool) -> Limit:
        return Limit(
            resource=f"device for {operation.upper()}",
            use=rate * pool.device_seconds / load.utilisation,
            remedy="more devices, each with a service of its own on the same Redis",
        )

    return [
        need("write", load.documents_per_second, write),
        need("read", load.reads_per_second, read),
        Limit(
            resource="front end (HTTP) of one service process",
            use=asked / front_end,
            remedy="more services; several may share a device that is faster than its front end",
        ),
    ]


def _days(load: Workload) -> float | None:
    if not load.documents_per_second:
        return None
    return load.memories / load.documents_per_second / (24 * SECONDS_PER_HOUR)

"""The capacity plan: its arithmetic on constants that are easy to follow, and its monotony."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.errors import InputError
from service.capacity.arithmetic import ModelShape, record_bytes
from service.capacity.constants import (
    Constants,
    DeviceRates,
    HttpLimit,
    Rate,
    ReadBackCost,
    RedisCosts,
    packaged_constants,
)
from service.capacity.description import describe
from service.capacity.plan import LISTED, Plan, Workload, make_plan, read_demand, write_demand

KV = ModelShape.load("kv-96")
PROSE = ModelShape.load("prose")
TOKENS = 100
WRITE_FLOP = KV.write_flop(TOKENS, KV.memory.write_steps)


def rates(write_seconds: float) -> DeviceRates:
    """Return a device that needs so long for a WRITE beyond its passes of 10 ms."""
    rate = Rate(
        pass_seconds=0.01,
        flops=WRITE_FLOP / write_seconds,
        layers=KV.layers,
        position_flop=KV.position_flop,
        source="here",
    )
    return DeviceRates(title="a device", basis="measured", write=(rate,), read=(rate,))


CONSTANTS = Constants(
    devices={"slow": rates(0.5), "fast": rates(0.001)},
    http=HttpLimit(requests_per_second=100, source="here"),
    redis=RedisCosts(
        memory_bytes=200,
        entry_bytes=100,
        value_share=1.25,
        put_seconds=1e-4,
        get_seconds=5e-5,
        source="there",
    ),
    read_back=ReadBackCost(tokens_per_probe=32, source="here"),
)


def workload(**fields: float) -> Workload:
    settings = {"documents_per_second": 3, "reads_per_second": 0, "tokens": TOKENS}
    return Workload.model_validate(settings | {"write_p99": 60, "read_p99": 60} | fields)


def plan(device: str = "slow", shape: ModelShape = KV, **fields: float) -> Plan:
    return make_plan(workload(**fields), shape, CONSTANTS, device)


def test_devices_divide_the_work() -> None:
    made = plan(price=2)
    # 3 a second of 0.5 s each, of which a device does 0.7 / 0.5 a second.
    assert made.write.devices == math.ceil(3 * 0.5 / 0.7) == 3
    assert made.write.bound_by == "time"
    assert made.write.device_seconds == pytest.approx(0.5)
    assert made.write.alone == pytest.approx(5 * 0.01 + 0.5)
    assert made.write.spare == pytest.approx(0.5)
    assert made.write.device_hours_per_million == pytest.approx(1e6 / 3600)
    assert made.write.cost_per_million == pytest.approx(2e6 / 3600)
    assert made.read.devices == 0
    assert made.read.cost_per_million is None


def test_redis_holds_records_keys_and_entries() -> None:
    made = plan(memories=1000, reads_per_second=5)
    record = record_bytes(KV, TOKENS, "int8", name=None)
    assert made.record_bytes == record
    assert made.redis_bytes == pytest.approx(1000 * (200 + 1.25 * record + LISTED * 100))
    assert made.store_bits == 8 * (3 + 5) * record
    assert made.redis_primaries == 1
    assert made.sources == ["here", "there"]
    assert made.days_to_fill == pytest.approx(1000 / 3 / 86_400)


def test_more_memories_than_a_primary_holds_need_a_cluster() -> None:
    made = plan(memories=10**9)
    assert made.redis_primaries == math.ceil(made.redis_bytes / (0.7 * 64 * 2**30))
    first = made.limits[0]
    assert first.resource == "memory of a Redis primary"
    assert "redis+cluster://" in first.remedy
    (index,) = [limit for limit in made.limits if limit.resource.startswith("index")]
    assert index.use == pytest.approx(10**9 * LISTED * 100 / (0.7 * 64 * 2**30))
    assert plan(memories=10**9, tenants=1000).limits[-1] != index


def test_a_fast_device_is_bound_by_its_front_end() -> None:
    made = plan("fast", reads_per_second=700)
    assert made.read.bound_by == "front end"
    assert made.read.devices == math.ceil(700 / (0.7 * 100))


def test_a_short_limit_needs_more_devices_and_an_impossible_one_is_refused() -> None:
    patient = plan(write_p99=10)
    hurried = plan(write_p99=1.2)
    assert hurried.write.bound_by == "latency"
    assert hurried.write.devices > patient.write.devices
    assert hurried.write.p99 <= 1.2
    with pytest.raises(InputError, match="allow more"):
        plan(write_p99=0.5)


def test_a_device_without_constants_is_refused() -> None:
    with pytest.raises(InputError, match="slow, fast"):
        plan("h9000")


def test_pages_are_read_back_and_written_again_at_the_worst() -> None:
    rate = CONSTANTS.devices["slow"]
    checked = write_demand(workload(), PROSE, CONSTANTS, rate)
    unchecked = write_demand(
        workload().model_copy(update={"verify": False}), PROSE, CONSTANTS, rate
    )
    assert checked.work > 2 * unchecked.work
    assert write_demand(workload(), KV, CONSTANTS, rate).work == pytest.approx(0.5)


def test_a_rate_of_another_size_is_scaled_by_its_layers() -> None:
    scaled = CONSTANTS.devices["slow"].rate("write", PROSE)
    assert scaled.pass_seconds == pytest.approx(0.01 * PROSE.layers / KV.layers)
    read = read_demand(workload(), PROSE, CONSTANTS.devices["slow"])
    assert read.overhead == pytest.approx(9 * scaled.pass_seconds)


amounts = st.floats(0.01, 1000)


@given(amounts, st.floats(1, 10), st.integers(1, 10**9), st.integers(1, 85))
def test_more_of_anything_never_needs_less(
    rate: float, times: float, memories: int, tokens: int
) -> None:
    fields: dict[str, float] = {
        "documents_per_second": rate,
        "reads_per_second": rate,
        "memories": memories,
        "tokens": tokens,
        "write_p99": 1000,
        "read_p99": 1000,
    }
    base = make_plan(workload(**fields), KV, CONSTANTS, "slow")
    for name in ("documents_per_second", "reads_per_second", "memories", "tokens"):
        larger = workload(**fields | {name: math.ceil(times * fields[name])})
        grown = make_plan(larger, KV, CONSTANTS, "slow")
        assert grown.write.devices >= base.write.devices
        assert grown.read.devices >= base.read.devices
        assert grown.redis_bytes >= base.redis_bytes
        assert grown.redis_primaries >= base.redis_primaries
        assert grown.store_bits >= base.store_bits


def test_the_description_names_the_scarcest_first() -> None:
    text = describe(plan(memories=10**9, reads_per_second=10, price=1))
    assert "WRITE: 3 devices" in text
    scarce = text[text.index("gives way first") :]
    assert scarce.index("memory of a Redis primary") < scarce.index("network")


def test_the_packaged_constants_plan_both_devices() -> None:
    for device, basis in (("cpu", "measured"), ("h200", "inferred")):
        load = Workload(documents_per_second=10, reads_per_second=100, tokens=300)
        made = make_plan(load, PROSE, packaged_constants(), device)
        assert made.basis == basis
        assert made.pages == 5
        assert made.write.devices > 0

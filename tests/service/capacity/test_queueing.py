"""The latency formula: its limits, and its monotony."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.capacity.queueing import Demand, find_rate, predict_latency

seconds = st.floats(0.001, 10)
demands = st.builds(Demand, passes=st.integers(1, 100), overhead=seconds, work=seconds)


@given(demands)
def test_an_idle_device_takes_a_request_alone_and_waits_for_part_of_a_pass(
    demand: Demand,
) -> None:
    latency = predict_latency(demand, 0)
    assert demand.alone <= latency.mean <= latency.p99
    assert latency.p99 == pytest.approx(demand.alone * (1 + 1 / demand.passes))
    assert latency.running == 0


@given(demands, st.floats(0, 0.98), st.floats(0.001, 0.01))
def test_latency_grows_with_the_rate(demand: Demand, share: float, more: float) -> None:
    less = predict_latency(demand, share / demand.work)
    busier = predict_latency(demand, (share + more) / demand.work)
    assert less.mean < busier.mean
    assert less.p99 < busier.p99
    assert less.running < busier.running


def test_littles_law_holds_at_half_the_capacity() -> None:
    # (2 + 2) s alone, half of the work's time asked for: 8 s within, at a quarter a second.
    latency = predict_latency(Demand(passes=4, overhead=2, work=2), 0.25)
    assert latency.running == 2
    assert latency.mean == pytest.approx(8 + 1)


def test_a_device_that_cannot_keep_up_has_no_latency() -> None:
    with pytest.raises(ValueError, match="cannot keep up"):
        predict_latency(Demand(passes=1, overhead=0, work=2), 0.5)


@given(demands, st.floats(1.5, 100), st.floats(0.1, 0.9))
def test_the_found_rate_keeps_the_limits_and_a_larger_one_does_not(
    demand: Demand, patience: float, utilisation: float
) -> None:
    p99 = patience * demand.alone
    rate = find_rate(demand, p99=p99, utilisation=utilisation, most_running=50)
    if rate == 0:
        assert predict_latency(demand, 0).p99 >= p99
        return
    latency = predict_latency(demand, rate)
    assert latency.p99 <= p99
    assert latency.running <= 50
    larger = 1.001 * rate
    if larger * demand.work <= utilisation:
        busier = predict_latency(demand, larger)
        assert busier.p99 > p99 or busier.running > 50


def test_no_rate_keeps_a_limit_below_one_request() -> None:
    demand = Demand(passes=5, overhead=1, work=1)
    assert find_rate(demand, p99=1.9, utilisation=0.7, most_running=math.inf) == 0

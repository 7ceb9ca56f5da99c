"""The short form of `gradmem-bench stores`."""

import pytest

from benchmarks.reliability_rows import StoreScale
from benchmarks.report.reliability import store_scale
from benchmarks.stores.measurement import OPERATIONS
from tests.benchmarks.commands import measure_rows
from tests.benchmarks.report.made_up import result_file


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_every_size_is_timed(kind: str) -> None:
    rows = measure_rows(*(StoreScale, "stores", "--only", kind, "--sizes", "20,60", "--rounds", 3))
    assert [(row.memories, row.operation) for row in rows] == [
        (size, operation) for size in (20, 60) for operation in OPERATIONS
    ]
    assert {row.calls for row in rows} == {3}


def test_large_stores_are_compared_with_the_smallest() -> None:
    rows = [
        StoreScale(store="redis", memories=size, operation="get", calls=9, p50=p50, p99=2 * p50)
        for size, p50 in ((1000, 0.001), (10_000, 0.003))
    ]
    (line,) = store_scale([result_file(*rows)]).splitlines()[2:]
    assert line == "| redis | get | 1.00 | 2.00 | 3.00 | 3.00 |"

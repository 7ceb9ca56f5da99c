"""The values that were used last are kept, within a number of bytes."""

import pytest

from service.recent import RecentlyUsed


@pytest.fixture
def kept() -> RecentlyUsed[str, bytes]:
    return RecentlyUsed(10, size=len)


def test_the_least_recently_used_leave_first(kept: RecentlyUsed[str, bytes]) -> None:
    kept.put("a", b"four")
    kept.put("b", b"four")
    assert kept.get("a") == b"four"
    kept.put("c", b"four")
    assert (list(kept), kept.bytes) == (["a", "c"], 8)
    assert kept.get("b") is None


def test_a_value_takes_the_place_of_the_one_before(kept: RecentlyUsed[str, bytes]) -> None:
    kept.put("a", b"four")
    kept.put("a", b"two")
    kept.remove("b")
    assert (kept.get("a"), kept.bytes) == (b"two", 3)
    kept.remove("a")
    assert (kept.get("a"), kept.bytes) == (None, 0)


def test_a_value_that_is_too_large_leaves_the_others_alone(
    kept: RecentlyUsed[str, bytes],
) -> None:
    kept.put("a", b"four")
    kept.put("b", b"more than ten")
    assert (list(kept), kept.bytes) == (["a"], 4)
    kept.put("a", b"more than ten")
    assert (list(kept), kept.bytes) == ([], 0)

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from search.histogram import (
    DAY,
    HOUR,
    MAX_BUCKETS,
    MAX_STEPS,
    choose_step,
    from_microseconds,
    join_steps,
)
from search.query import SearchQuery, to_microseconds

T0 = to_microseconds(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("span", [0, 1, 1_000, HOUR, DAY, 400 * DAY, 36_500 * DAY, 3_650_000 * DAY])
def test_buckets_are_few_adjoin_and_keep_every_count(span: int) -> None:
    rng = random.Random(span)
    first = to_microseconds(datetime(1, 1, 2, tzinfo=UTC)) if span > 50_000 * DAY else T0
    step = choose_step(SearchQuery(), (first, first + span))
    assert span // step < MAX_STEPS
    counts: dict[int, int] = {}
    for _ in range(500):
        start = (first + rng.randint(0, span)) // step * step
        counts[start] = counts.get(start, 0) + 1
    buckets = join_steps(counts, step)
    assert sum(bucket.count for bucket in buckets) == 500
    assert 1 <= len(buckets) <= MAX_BUCKETS
    for left, right in pairwise(buckets):
        assert left.to_us == right.from_us
    assert buckets[0].count
    assert buckets[-1].count
    for bucket in buckets:
        inside = [n for at, n in counts.items() if bucket.from_us <= at < bucket.to_us]
        assert bucket.count == sum(inside)


def test_two_years_are_told_by_month() -> None:
    counts = {T0 + day * DAY: 1 for day in range(730)}
    buckets = join_steps(counts, DAY)
    assert [from_microseconds(bucket.from_us).day for bucket in buckets] == [1] * 24
    assert sum(bucket.count for bucket in buckets) == 730


def test_the_asked_range_narrows_the_steps() -> None:
    wide = choose_step(SearchQuery(), (0, T0))
    narrow = choose_step(SearchQuery(since_us=T0 - HOUR, until_us=T0), (0, T0))
    assert narrow < wide


def test_nothing_has_no_buckets() -> None:
    assert choose_step(SearchQuery(), None) > 0
    assert join_steps({}, DAY) == []

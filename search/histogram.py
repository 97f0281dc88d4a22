"""Time buckets of an answer: counted finely in one pass, then joined to at most a few dozen.

The engine is asked before anybody knows where the hits lie, so it counts in small steps over the
whole index (or the asked range), and the steps are joined here to fit the hits. Days are joined to
calendar months and years, which no fixed interval can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from search.query import EPOCH, SearchQuery, to_microseconds

MAX_BUCKETS = 60
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
MAX_STEPS = 20_000

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
# Each divides the next.
_STEPS = (
    *(1_000, 10_000, 100_000, SECOND, 10 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE),
    *(HOUR, 6 * HOUR, DAY),
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """`from_us` ≤ time < `to_us`."""

    from_us: int
    to_us: int
    count: int


def choose_step(query: SearchQuery, bounds: tuple[int, int] | None) -> int:
    """The finest step that cuts the range into ≤ MAX_STEPS."""
    first, last = bounds or (0, 0)
    if query.since_us is not None:
        first = max(first, query.since_us)
    if query.until_us is not None:
        last = min(last, query.until_us)
    span = max(last - first, 1)
    step = next((step for step in _STEPS if span // step < MAX_STEPS), _STEPS[-1])
    while span // step >= MAX_STEPS:
        # Longer than 50 years: whole weeks, then multiples of them.
        step *= 7
    return step


def join_steps(counts: dict[int, int], step: int) -> list[Bucket]:
    """≤ MAX_BUCKETS adjoining buckets, from the first to the last that has hits."""
    if not counts:
        return []
    first, last = min(counts), max(counts) + step
    floor, following = _choose_calendar(first, last, step)
    buckets: list[Bucket] = []
    start = floor(first)
    while start < last:
        end = following(start)
        buckets.append(Bucket(start, end, 0))
        start = end
    joined = {bucket.from_us: bucket for bucket in buckets}
    for at, count in counts.items():
        bucket = joined[floor(at)]
        joined[bucket.from_us] = Bucket(bucket.from_us, bucket.to_us, bucket.count + count)
    return list(joined.values())


Edge = Callable[[int], int]


def _choose_calendar(first: int, last: int, step: int) -> tuple[Edge, Edge]:
    """How to find the start of a bucket, and the start of the next."""
    for size in (*_STEPS, 7 * DAY):
        if size >= step and size % step == 0 and (last - first) // size < MAX_BUCKETS - 1:
            return _make_fixed(size)
    if step % DAY == 0 and step == DAY:
        months = 1
        while (last - first) // (months * 30 * DAY) >= MAX_BUCKETS - 1:
            months = {1: 3, 3: 12}.get(months, months * 2)
        return _make_months(months)
    size = step
    while (last - first) // size >= MAX_BUCKETS - 1:
        size *= 2
    return _make_fixed(size)


def _make_fixed(size: int) -> tuple[Edge, Edge]:
    return (lambda at: at // size * size), (lambda start: start + size)


def _make_months(months: int) -> tuple[Edge, Edge]:
    def number(at: int) -> int:
        moment = from_microseconds(at)
        return moment.year * 12 + moment.month - 1

    def begin(month: int) -> int:
        year, index = divmod(month, 12)
        if year < 1:
            return to_microseconds(_EARLIEST)
        if year > 9999:
            return to_microseconds(_LATEST) + 1
        return to_microseconds(datetime(year, index + 1, 1, tzinfo=UTC))

    return (
        lambda at: begin(number(at) // months * months),
        lambda start: begin(number(start) // months * months + months),
    )


def from_microseconds(at_us: int) -> datetime:
    """The time of `at_us`; beyond the years 1–9999 the nearest one there is."""
    try:
        return EPOCH + timedelta(microseconds=at_us)
    except OverflowError:
        return _LATEST if at_us > 0 else _EARLIEST

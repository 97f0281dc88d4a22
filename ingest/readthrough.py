"""A read-through cache in Redis for answers that are asked for again and again.

An answer is kept together with the change tokens it was made under (`ingest.changes`), and counts
only while these are the present ones: nobody has to delete anything when something changes, and no
message about a change can get lost. Without Redis every answer is made anew.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from django.conf import settings
from django.core.cache import cache

# Answers share this many places, so that a thousand different searches a second cannot fill the
# memory of Redis: a newer answer takes the place of an older one.
SLOTS = 4_096
MAX_BYTES = 100_000
FLIGHT_SECONDS = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an answer came from. Only those out of the cache have an age and seconds left."""

    is_hit: bool = False
    seconds_left: int = 0
    age_seconds: int = 0

    def headers(self) -> dict[str, str]:
        """What an HTTP answer says of it; nothing while the cache is switched off."""
        if not settings.CACHE_TTL:
            return {}
        if not self.is_hit:
            return {"X-Cache": "miss"}
        return {
            "X-Cache": "hit",
            "X-Cache-TTL": str(self.seconds_left),
            "Age": str(self.age_seconds),
        }


FRESH = Origin()


def read_through(
    key: tuple[Any, ...],
    *,
    stamp: object,
    make: Callable[[], T],
    wait_seconds: float = FLIGHT_SECONDS,
) -> tuple[T, Origin]:
    """The value kept under `key` and `stamp`, else what `make` gives, which is kept for CACHE_TTL.

    `key` names the question and what the asker may see, `stamp` the change tokens; a stamp of None
    keeps nothing. The value must survive pickling. What `make` raises is never kept. Of those who
    ask the same at the same time in one process, one asks and the others wait for it, though no
    longer than `wait_seconds`.
    """
    if not settings.CACHE_TTL or stamp is None:
        return make(), FRESH
    digest = hashlib.blake2s(repr(key).encode(), digest_size=16).hexdigest()
    found: tuple[T, Origin] | None = _find(digest, stamp)
    if found is not None:
        return found
    with _join_flight(digest, max(0.0, wait_seconds)) as others_asked:
        if others_asked and (found := _find(digest, stamp)) is not None:
            return found
        value = make()
        _keep(digest, stamp, value)
        return value, FRESH


def _find(digest: str, stamp: object) -> tuple[Any, Origin] | None:
    entry = cache.get(_place(digest))
    if entry is None or entry[:2] != (digest, stamp):
        return None
    _, _, kept_at, pickled = entry
    age_seconds = max(0.0, time.time() - kept_at)
    seconds_left = settings.CACHE_TTL - age_seconds
    if seconds_left <= 0:  # the setting was lowered
        return None
    origin = Origin(is_hit=True, seconds_left=round(seconds_left), age_seconds=round(age_seconds))
    return pickle.loads(pickled), origin  # noqa: S301 - from our own Redis, as sessions are


def _keep(digest: str, stamp: object, value: Any) -> None:
    pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    if len(pickled) <= MAX_BYTES:
        entry = (digest, stamp, time.time(), pickled)
        cache.set(_place(digest), entry, timeout=settings.CACHE_TTL)


def _place(digest: str) -> str:
    return f"kept:{int(digest, 16) % SLOTS}"


_flights: dict[str, threading.Lock] = {}


@contextmanager
def _join_flight(digest: str, wait_seconds: float) -> Iterator[bool]:
    """Whether somebody else was making the same answer; then it has ended, or took too long."""
    lock = _flights.setdefault(digest, threading.Lock())
    is_first = lock.acquire(blocking=False)
    is_mine = is_first or lock.acquire(timeout=wait_seconds)
    try:
        yield not is_first
    finally:
        if is_mine:
            _flights.pop(digest, None)
            lock.release()

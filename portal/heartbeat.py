"""Which workers live, and which queues they serve: a sorted set in Redis by time of last sign."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable
from functools import cache
from typing import cast

import redis
from django.conf import settings

INTERVAL_SECONDS = 5.0
# Three missed beats and a little.
ALIVE_SECONDS = 20.0
_KEY = "gleaner:workers"


def beat(worker: str, queues: Iterable[str]) -> None:
    """Say that `worker` lives. Redis being down is no reason for a worker to stop."""
    member = json.dumps([worker, sorted(queues)])
    with contextlib.suppress(redis.RedisError):
        _client().zadd(_KEY, {member: time.time()})


def sign_off(worker: str) -> None:
    """Forget `worker`, and those that were not heard of for an hour."""
    with contextlib.suppress(redis.RedisError):
        client = _client()
        for member in _members(-math.inf):
            if json.loads(member)[0] == worker:
                client.zrem(_KEY, member)
        client.zremrangebyscore(_KEY, 0, time.time() - 3600)


def served_queues() -> dict[str, int]:
    """How many living workers serve each queue. Raises redis.RedisError."""
    counts: dict[str, int] = {}
    for member in _members(time.time() - ALIVE_SECONDS):
        for queue in json.loads(member)[1]:
            counts[queue] = counts.get(queue, 0) + 1
    return counts


def _members(since: float) -> list[bytes]:
    return cast("list[bytes]", _client().zrangebyscore(_KEY, since, math.inf))


def ping() -> None:
    """Raises redis.RedisError when Redis does not answer."""
    _client().ping()


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_CACHE_URL, socket_connect_timeout=0.5, socket_timeout=1.0
    )

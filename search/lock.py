"""The one drainer: whoever holds this lock moves changes into the index.

In Redis, because drainers may run on several machines. A holder that dies loses it after
LOCK_SECONDS. What a drainer that was paused for longer could do is undone by the indexer itself
(`indexer._remove`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from django.conf import settings
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

LOCK_SECONDS = 30


class DrainerLock:
    """Held until the end of `hold_drainer_lock`; `renew` between batches."""

    def __init__(self, client: redis.Redis, lock: Lock, wanted_key: str) -> None:
        self._client = client
        self._lock = lock
        self._wanted_key = wanted_key

    def renew(self) -> bool:
        """Starts the time of the lock anew; False when somebody else has it."""
        try:
            return bool(self._lock.reacquire())
        except LockError:
            return False

    def is_wanted(self) -> bool:
        """Whether a rebuild waits for it. A drainer then ends early, or would win every race."""
        return bool(self._client.exists(self._wanted_key))


@contextmanager
def hold_drainer_lock(*, wait_seconds: float = 0) -> Iterator[DrainerLock | None]:
    """Gives None when another process holds the lock (after waiting). Raises RedisError."""
    # An index in Elasticsearch is shared by machines whose folders may differ.
    index = (
        settings.ELASTICSEARCH_PREFIX if settings.ELASTICSEARCH_URL else settings.SEARCH_INDEX_DIR
    )
    name = f"search:drainer:{index}"
    wanted_key = f"{name}:wanted"
    client = redis.Redis.from_url(settings.REDIS_BUDGET_URL)
    try:
        lock = client.lock(name, timeout=LOCK_SECONDS)
        if wait_seconds:
            client.set(wanted_key, 1, ex=round(wait_seconds) + 1)
            is_held = lock.acquire(blocking=True, blocking_timeout=wait_seconds)
            client.delete(wanted_key)
        else:
            is_held = lock.acquire(blocking=False)
        try:
            yield DrainerLock(client, lock, wanted_key) if is_held else None
        finally:
            if is_held:
                with suppress(LockError, RedisError):
                    lock.release()
    finally:
        client.close()

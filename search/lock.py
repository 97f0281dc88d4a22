"""Who may write the index: one drainer, and at most one rebuild.

In Redis, because drainers may run on several machines. A holder renews its lock in a thread of its
own, however long a batch takes; one that dies or is paused loses it after LOCK_SECONDS. What a
drainer that was paused for longer could do is undone by the indexer itself (`indexer._remove`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from django.conf import settings
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

logger = logging.getLogger(__name__)

LOCK_SECONDS = 10
RENEW_SECONDS = 2.0


class HeldLock:
    """Held until the end of its `with` block."""

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
        """Whether somebody waits for it. A drainer then ends early, or would win every race."""
        return bool(self._client.exists(self._wanted_key))


@contextmanager
def hold_drainer_lock(*, wait_seconds: float = 0) -> Iterator[HeldLock | None]:
    """Gives None when another process holds the lock (after waiting). Raises RedisError."""
    with _hold(_name("drainer"), wait_seconds=wait_seconds) as lock:
        yield lock


@contextmanager
def hold_rebuild_lock(*, wait_seconds: float = 0) -> Iterator[HeldLock | None]:
    """Gives None when another process rebuilds. Raises RedisError."""
    with _hold(_name("rebuild"), wait_seconds=wait_seconds) as lock:
        yield lock


def _name(what: str) -> str:
    # An index in Elasticsearch is shared by machines whose folders may differ.
    index = (
        settings.ELASTICSEARCH_PREFIX if settings.ELASTICSEARCH_URL else settings.SEARCH_INDEX_DIR
    )
    return f"search:{what}:{index}"


@contextmanager
def _connect() -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(settings.REDIS_BUDGET_URL)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _hold(name: str, *, wait_seconds: float) -> Iterator[HeldLock | None]:
    wanted_key = f"{name}:wanted"
    with _connect() as client:
        # The token is shared with the thread that renews.
        lock = client.lock(name, timeout=LOCK_SECONDS, thread_local=False)
        if wait_seconds:
            client.set(wanted_key, 1, ex=round(wait_seconds) + 1)
            is_held = lock.acquire(blocking=True, blocking_timeout=wait_seconds)
            client.delete(wanted_key)
        else:
            is_held = lock.acquire(blocking=False)
        if not is_held:
            yield None
            return
        held = HeldLock(client, lock, wanted_key)
        with _renewed_regularly(held):
            try:
                yield held
            finally:
                with suppress(LockError, RedisError):
                    lock.release()


@contextmanager
def _renewed_regularly(held: HeldLock) -> Iterator[None]:
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(RENEW_SECONDS):
            try:
                if not held.renew():
                    return  # the holder finds out at its next batch
            except RedisError:
                logger.warning("The lock of the search index cannot be renewed.", exc_info=True)

    thread = threading.Thread(target=renew, name="search-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

"""The cache in Redis, for callers who can do without it."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import redis
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.utils.functional import cached_property

logger = logging.getLogger(__name__)

# Also one that answers, but refuses to write: its memory or disk is full, or it became a replica.
_DOWN = redis.RedisError
_clients: dict[tuple[Any, ...], Any] = {}


class KeptRedisClient(RedisCacheClient):
    """Makes one client for its connections instead of one for each call (0.1 ms)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._made: dict[int, Any] = {}

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        pool = self._get_connection_pool(write)  # type: ignore[attr-defined]
        if id(pool) not in self._made:
            self._made[id(pool)] = self._client(connection_pool=pool)  # type: ignore[attr-defined]
        return self._made[id(pool)]


class PatientRedisCache(RedisCache):
    """A Redis cache that is empty while Redis does not serve, instead of an exception.

    Sessions then come from the database, throttles and lockouts let everybody pass, and
    /health/ready says what is wrong.
    """

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = KeptRedisClient

    @cached_property
    def _cache(self) -> Any:
        """One client a process: Django makes a cache, and a connection, for each request's context
        (a `Local` of asgiref), and requests run in contexts of their own here."""
        place = (os.getpid(), *self._servers)  # type: ignore[attr-defined]
        if place not in _clients:
            _clients[place] = self._class(self._servers, **self._options)  # type: ignore[attr-defined]
        return _clients[place]

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        try:
            return super().get(key, default, version)
        except _DOWN as error:
            _warn(error)
            return default

    def get_many(self, keys: Any, version: int | None = None) -> dict[Any, Any]:
        try:
            return super().get_many(keys, version)
        except _DOWN as error:
            _warn(error)
            return {}

    def set(self, key: Any, value: Any, timeout: Any = ..., version: int | None = None) -> None:
        try:
            super().set(key, value, **_timeout(timeout), version=version)
        except _DOWN as error:
            _warn(error)

    def add(self, key: Any, value: Any, timeout: Any = ..., version: int | None = None) -> bool:
        try:
            return super().add(key, value, **_timeout(timeout), version=version)
        except _DOWN as error:
            _warn(error)
            return True

    def delete(self, key: Any, version: int | None = None) -> bool:
        try:
            return super().delete(key, version)
        except _DOWN as error:
            _warn(error)
            return False

    def has_key(self, key: Any, version: int | None = None) -> bool:
        try:
            return super().has_key(key, version)
        except _DOWN as error:
            _warn(error)
            return False

    def count_up(self, key: str, *, expires_seconds: int) -> int:
        """Raise a counter that disappears `expires_seconds` after its first count; 0 without Redis.

        One round trip, which Django's `add` and `incr` cannot do, and no moment between both at
        which a counter could be left without an end.
        """
        try:
            name = self.make_and_validate_key(key)
            pipeline = self._client(name).pipeline(transaction=False)
            pipeline.set(name, 0, ex=expires_seconds, nx=True)
            pipeline.incr(name)
            return int(pipeline.execute()[1])
        except _DOWN as error:
            _warn(error)
            return 0

    def seconds_left(self, key: str) -> float:
        """How long until `key` disappears; 0 when it has, or without Redis."""
        try:
            name = self.make_and_validate_key(key)
            return max(0.0, self._client(name).pttl(name) / 1000)
        except _DOWN as error:
            _warn(error)
            return 0.0

    def _client(self, name: str) -> redis.Redis:
        return cast(redis.Redis, self._cache.get_client(name, write=True))


def _timeout(timeout: Any) -> dict[str, Any]:
    return {} if timeout is ... else {"timeout": timeout}


def _warn(error: redis.RedisError) -> None:
    logger.warning("The cache is out of reach: %s", error)

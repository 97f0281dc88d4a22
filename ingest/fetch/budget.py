"""The send budget of an upstream: one per scheme://host:port, shared by all workers through Redis.

A Lua script hands out send slots in order of time, spaced for the smallest limit among the runs
that are at the host. Slots lie 3 % further apart than the limit asks, and one that could not be
used within TOLERANCE_SECONDS is given up: so no second at the server holds more sends than the
limit, even when an event loop was held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SPACING_RESERVE = 0.97
# (1 + 0.025) × 0.97 < 1: late sends still fit into the reserve.
TOLERANCE_SECONDS = 0.025
# A block of slots is leased at once; a tenth of a second is short enough to be shared fairly.
BLOCK_SECONDS = 0.1
# How often a run without a limit looks whether another one limits the host.
LOOK_SECONDS = 1.0
UNLIMITED = 1e6
# How often a long wait looks up whether it is still wanted.
NAP_SECONDS = 0.2

# KEYS: next free slot in µs; limits by member ("rate expiry")
# ARGV: member, its rate (per second), reserve, seconds of a block
# → µs until the first slot, spacing in µs, number of slots
_LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate = tonumber(ARGV[2])
local entries = redis.call('HGETALL', KEYS[2])
for index = 1, #entries, 2 do
    local other, expiry = string.match(entries[index + 1], '(%S+) (%S+)')
    if tonumber(expiry) < tonumber(time[1]) then
        redis.call('HDEL', KEYS[2], entries[index])
    elseif entries[index] ~= ARGV[1] and tonumber(other) < rate then
        rate = tonumber(other)
    end
end
local spacing = math.ceil(1000000 / (rate * tonumber(ARGV[3])))
local slots = math.max(1, math.floor(rate * tonumber(ARGV[4])))
local free = tonumber(redis.call('GET', KEYS[1]) or '0')
if free < now then free = now end
local after = free + spacing * slots
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX',
           math.ceil((after - now) / 1000) + 60000)
-- A member counts until after its last slot: a slow one asks seldom, and is at the host all along.
local expiry = math.ceil(after / 1000000) + 10
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', expiry))
redis.call('EXPIREAT', KEYS[2], string.format('%.0f', expiry + 60))
return {string.format('%.0f', free - now), spacing, slots}
"""


class Budget:
    """Waits for the next send slot. `rate` None: no limit but those of other runs at the host.

    `is_closed`: the slice is over, and what is queued must not go out. `is_shut`: nothing at all
    may go out any more, not even what waits for its slot already.
    """

    def __init__(self, *, redis_url: str, origin: str, member: str, rate: float | None) -> None:
        self.rate = rate
        self.is_closed = self.is_shut = False
        self._redis_url = redis_url
        self._keys = [f"budget:{origin}", f"budget:{origin}:limits"]
        self._member = member
        self._slots: deque[float] = deque()
        self._lock = asyncio.Lock()
        self._client: redis.Redis | None = None
        self._has_limited_neighbour = False
        self._looked_at = float("-inf")

    def limit_to(self, rate: float | None) -> None:
        """A new limit in sends per second; leased slots of the old one are given up."""
        if rate != self.rate:
            self.rate = rate
            self._slots.clear()

    async def wait_for_slot(self, *, is_under_way: bool = False) -> bool:
        """Returns when the next send may leave; False when the slice ends first.

        Raises redis.RedisError where Redis is away. A slot that was begun to be waited for is used:
        below a send per slice nothing would ever be sent otherwise. `is_under_way`: a redirect is
        followed, which the end of the slice does not cut short.
        """
        await self._look_for_neighbours()
        if self._is_free():
            return not (self.is_shut if is_under_way else self.is_closed)
        # One sender at a time waits, so that no slot is taken long before it is used.
        async with self._lock:
            if self.is_closed and not is_under_way:
                return False
            loop = asyncio.get_running_loop()
            while not self._is_free() and not self.is_shut:
                if not self._slots:
                    await self._lease(self.rate)
                elif (leave_at := self._slots.popleft()) > loop.time() - TOLERANCE_SECONDS:
                    await self._sleep_until(leave_at)
                    break
            return not self.is_shut

    def _is_free(self) -> bool:
        return self.rate is None and not self._has_limited_neighbour

    async def _look_for_neighbours(self) -> None:
        """Whether another run limits the host; asked by one without a limit of its own."""
        now = asyncio.get_running_loop().time()
        if self.rate is not None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        # Without Redis there is nobody who could know of a limit.
        with contextlib.suppress(redis.RedisError):
            entries = await self._connect().hgetall(self._keys[1])
            entries.pop(self._member.encode(), None)
            limits = [value.split() for value in entries.values()]
            self._has_limited_neighbour = any(
                float(rate) < UNLIMITED and float(expiry) > time.time() for rate, expiry in limits
            )

    async def _sleep_until(self, moment: float) -> None:
        loop = asyncio.get_running_loop()
        while (wait := moment - loop.time()) > 0 and not self.is_shut:
            await asyncio.sleep(min(wait, NAP_SECONDS))

    def shut(self) -> None:
        self.is_closed = self.is_shut = True

    def _connect(self) -> redis.Redis:
        if self._client is None:
            # Once more at once, for a connection that has died; whoever waits longer is the scan.
            self._client = redis.Redis.from_url(
                self._redis_url,
                socket_timeout=5,
                socket_connect_timeout=1,
                retry=Retry(NoBackoff(), retries=1),
            )
            self._script = self._client.register_script(_LEASE)
        return self._client

    async def _lease(self, rate: float | None) -> None:
        self._connect()
        wait, spacing, slots = await self._script(
            keys=self._keys,
            args=[self._member, repr(rate or UNLIMITED), SPACING_RESERVE, BLOCK_SECONDS],
        )
        if rate != self.rate:
            return  # the limit changed meanwhile: these slots are not spaced for it
        # Counted from the answer: a slot may be late by the way back, never early.
        first = asyncio.get_running_loop().time() + int(wait) / 1_000_000
        gap = int(spacing) / 1_000_000
        self._slots.extend(first + index * gap for index in range(int(slots)))

    async def close(self) -> None:
        """Takes the limit off the host, as far as it came from here."""
        if self._client is not None:
            with contextlib.suppress(redis.RedisError):
                await self._client.hdel(self._keys[1], self._member)
            await self._client.aclose()

"""The send budget of an upstream: one per scheme://host:port, shared by all workers through Redis.

A Lua script (budget.lua, which tells the rules) hands out send slots in order of time, so that no
span at the server holds more sends than the limits of the runs at the host allow. Limits are leased
with a reserve, and a slot that could not be used within a share of it is given up: late sends fit
into the reserve, even when an event loop was held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis.asyncio as redis
from redis import Redis as SyncRedis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ingest.configuration import LimitsPart
from ingest.fetch.pace import Control, Pace

# A limit per second is leased as if the second were this much longer, a longer span likewise, but
# not by more than a network ever delays a request.
RESERVE_SHARE = 0.06
MAX_RESERVE_SECONDS = 0.5
TOLERANCE_SECONDS = 0.025
# A slot farther away than this holds no worker: the run is parked until then.
PARK_SECONDS = 3.0
# How often a run without a limit tells of itself, and hears of limits of others.
LOOK_SECONDS = 0.25
# Slots given up one after the other because the event loop, or Redis, was late for each.
MOST_LATE_IN_A_ROW = 5
# How often a long wait looks up whether it is still wanted.
NAP_SECONDS = 0.2
# How long the limits of a run count after it was last heard of; a living one is heard of all the
# time, and whoever touches the host's book tells of the others.
KEPT_SECONDS = 120
# The book is told before sending that the host is in use, for so long and again well before then.
BOOKED_SECONDS, REBOOK_SECONDS = 30.0, 15.0
# Over how many sends of ours those of the host are counted, at least.
CROWD_SENDS = 10

_SCRIPT = Path(__file__).with_name("budget.lua").read_text()


class Book(Protocol):
    """What is known of a host even when Redis forgets: `ingest.hosts.HostBook`, off the loop."""

    async def touch(self, until: float) -> tuple[float, dict[str, LimitsPart]]:
        """Notes that the host may be in use until then (epoch seconds).

        Gives what was noted before, and the limits of the active runs there.
        """

    async def allot(self, per: str, limit: int) -> int:
        """Some sends of the present period's quota; 0 once it is used up."""

    def periods(self, now: float) -> dict[str, tuple[str, float, float]]:
        """The present periods by name: (id, begin, end)."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The next slot is too far away to wait for: `until` (epoch seconds), because of `reason`."""

    until: float
    reason: str
    quota: tuple[int, str] | None = None


@dataclass(slots=True)
class _News:
    """What the next call tells Redis; kept until one has succeeded."""

    sent: int = 0
    unused: dict[str, int] = field(default_factory=dict)
    allotted: dict[str, int] = field(default_factory=dict)


def describe_limits(limits: LimitsPart) -> str:
    """The limits as budget.lua reads them, reserve included; "{}" where there are none."""
    rules: dict[str, Any] = {}
    if limits.per_second is not None:
        rules["every"] = _microseconds((1 + RESERVE_SHARE) / limits.per_second)
    if limits.window:
        rules["window"] = [limits.window.requests, _microseconds(_stretch(limits.window.seconds))]
    if limits.batch:
        rules["batch"] = [
            limits.batch.requests,
            _microseconds(_stretch(limits.batch.pause_seconds)),
        ]
    if limits.quota:
        rules["quota"] = [limits.quota.requests, limits.quota.per]
    return json.dumps(rules)


def _stretch(seconds: float) -> float:
    return seconds + min(MAX_RESERVE_SECONDS, seconds * RESERVE_SHARE)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


class _Delays:
    """Judges whether slots are too late to be used, because the loop or Redis was held up."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def is_too_long(self, seconds: float, *, borne: float) -> bool:
        self._in_a_row = 0 if seconds <= max(borne, TOLERANCE_SECONDS) else self._in_a_row + 1
        # Where each is late, all are, by about as much: they are as far apart as they were.
        return 0 < self._in_a_row <= MOST_LATE_IN_A_ROW


class Budget:
    """Waits for the next send slot of a run at its host.

    `is_closed`: the slice is over, and what is queued must not go out. `is_shut`: nothing at all
    may go out any more, not even what waits for its slot already. `parked` is set, and the budget
    closed, when the next slot is far away. What the run's slices learn of the rate (`pace`) and
    delays that the host has asked for travel with the leases. Without a `book`, as in tests, Redis
    is all that is known. `charged`: the periods whose quotas the latest slots were taken from.
    """

    def __init__(
        self,
        *,
        redis_url: str,
        origin: str,
        member: str,
        limits: LimitsPart,
        book: Book | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.is_closed = self.is_shut = False
        self.parked: Parked | None = None
        self._pace = pace or Pace(configured=limits.per_second)
        self._limits = limits
        self._rules = describe_limits(limits)
        self._learned = self._pace.learned
        self._redis_url = redis_url
        self._keys = keys_of(origin)
        self._member = member
        self._book = book
        self._slots: deque[float] = deque()
        self._lock = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._client: redis.Redis | None = None
        self._is_limited_by_others = False
        self._looked_at = float("-inf")
        self._has_looked = False
        self._slot_delays, self._answer_delays = _Delays(), _Delays()
        self._booked_until = float("-inf")
        self._news = _News()
        self._others: dict[str, str] = {}
        self.charged: tuple[str, ...] = ()
        # (all slots of the host, our own) as of some answers
        self._counts: deque[tuple[int, int]] = deque(maxlen=40)
        self._own = 0

    def heed_pace(self) -> None:
        """The learned limit may have changed: leased slots of the old one are given up then."""
        if self._pace.learned != self._learned:
            self._learned = self._pace.learned
            self.give_back(len(self._slots), self.charged)
            self._slots.clear()

    @property
    def _is_open(self) -> bool:
        return self._rules == "{}" and self._learned is None

    @property
    def is_free(self) -> bool:
        """Whether sends leave as they come, as nothing limits them."""
        return self._is_open and not self._is_limited_by_others

    # ---- slots

    @property
    def patience_seconds(self) -> float:
        """How long after its slot a send may leave at the latest, as far as the reserve bears."""
        if self.is_free:
            return float("inf")
        limits, spans = self._limits, []
        if limits.window:
            spans.append(limits.window.seconds)
        if limits.batch:
            spans.append(limits.batch.pause_seconds)
        reserves = [(_stretch(span) - span) / 2 for span in spans]
        rates = [rate for rate in (limits.per_second, self._learned) if rate is not None]
        if rates or not reserves:
            slowest = min(rates, default=1.0)
            reserves.append(TOLERANCE_SECONDS * max(1.0, 1 / slowest))
        return min(reserves)

    def take_at_once(self) -> bool:
        """Whether a send may leave now, there being no limit, as far as was heard lately."""
        if self.is_closed or not self.is_free or not self._has_looked_lately():
            return False
        self._news.sent += 1
        return True

    async def wait_for_slot(self, *, is_under_way: bool = False) -> bool:
        """Returns when the next send may leave; False when the slice ends first.

        Raises redis.RedisError where Redis is away. A slot that was begun to be waited for is used:
        below a send per slice nothing would ever be sent otherwise. `is_under_way`: a redirect is
        followed, or a connection was opened, which the end of the slice does not cut short, nor a
        slot that is far away; only a quota that is used up or a delay that the host asked for does.
        """
        await self._look()
        if self.is_free:
            may_leave = not (self.is_shut if is_under_way else self.is_closed)
            self._news.sent += may_leave
            return may_leave
        # One sender at a time waits, so that no slot is taken long before it is used.
        async with self._lock:
            if self.is_closed and not is_under_way:
                return False
            loop = asyncio.get_running_loop()
            while not self.is_free and not self.is_shut:
                if self._slots:
                    leave_at = self._slots.popleft()
                    await self._sleep_until(leave_at)
                    late = loop.time() - leave_at
                    if not self._slot_delays.is_too_long(late, borne=self.patience_seconds):
                        break
                    self.give_back(1, self.charged)
                elif (parked := await self._lease(PARK_SECONDS)) is not None:
                    if not is_under_way or parked.quota or parked.reason == "hold":
                        self.parked = self.parked or parked
                        self.is_closed = True
                        return False
                    await self._sleep_until(loop.time() + min(1.0, parked.until - time.time()))
            return not self.is_shut

    async def _look(self) -> None:
        """Tells of itself and hears of the limits of others; for a run without one of its own."""
        if not self._is_open or self._has_looked_lately():
            return
        async with self._looking:
            # The others go on meanwhile with what is known; before the first answer nothing is.
            if self._has_looked_lately():
                return
            self._looked_at = time.monotonic()
            try:
                # A run that only waits tells nobody of its limits: the book does.
                await self._call(want=0, used_until=await self._touch_book())
            except redis.RedisError:
                # Without Redis there is nobody who could know of a limit. Where it took long to
                # find out, those who wait here do not all do so, one after the other.
                self._looked_at = time.monotonic()
            self._has_looked = True

    def _has_looked_lately(self) -> bool:
        return self._has_looked and time.monotonic() - self._looked_at < LOOK_SECONDS

    async def _sleep_until(self, moment: float) -> None:
        loop = asyncio.get_running_loop()
        while (wait := moment - loop.time()) > 0 and not self.is_shut:
            await asyncio.sleep(min(wait, NAP_SECONDS))

    def shut(self) -> None:
        self.is_closed = self.is_shut = True

    async def _lease(self, patience_seconds: float) -> Parked | None:
        """Leases the next slots, having waited for them; or tells how far away they are."""
        loop = asyncio.get_running_loop()
        learned = self._learned
        used_until = await self._touch_book()
        asked_at = loop.time()
        answer = await self._call(want=1, used_until=used_until)
        slots = answer.get("slots", ())
        # Counted from the answer, a slot is late by the way back, never early.
        is_stale = bool(slots) and self._answer_delays.is_too_long(
            loop.time() - asked_at, borne=self.patience_seconds
        )
        if is_stale or learned != self._learned:
            # Or the limit changed meanwhile: these slots are not spaced for it.
            self.give_back(len(slots), self.charged)
            return None
        if slots:
            self._slots.extend(loop.time() + slot / 1_000_000 for slot in slots)
            self._own += len(slots)
            self._note_counts(answer["granted"])
            return None
        if not answer["is_limited"]:
            return None  # any more: a learned limit was taken back, or another run is over
        if per := answer.get("allot"):
            return await self._allot(per, int(answer["limit"]))
        wait = answer["wait"] / 1_000_000
        if wait > patience_seconds:
            return Parked(time.time() + wait, answer["reason"])
        # Slots are leased from a second before on.
        await self._sleep_until(loop.time() + max(wait - 0.5, 0.01))
        return None

    async def _allot(self, per: str, limit: int) -> Parked | None:
        period, _, ends_at = self._periods()[per]
        sends = await self._book.allot(per, limit) if self._book else limit
        if sends:
            self._news.allotted[period] = self._news.allotted.get(period, 0) + sends
            return None
        return Parked(ends_at, "quota", quota=(limit, per))

    def _periods(self) -> dict[str, tuple[str, float, float]]:
        if self._book is None:
            return {per: (per, 0.0, 1e10) for per in ("hour", "day", "month")}
        return self._book.periods(time.time())

    def _note_counts(self, granted: int) -> None:
        self._counts.append((granted, self._own))
        host, own = (
            last - first for first, last in zip(self._counts[0], self._counts[-1], strict=True)
        )
        if own >= CROWD_SENDS:
            self._pace.crowd = max(1.0, host / own)

    def give_back(self, count: int, charged: tuple[str, ...]) -> None:
        """Slots that nobody has used do not count for the quotas that they were taken from; their
        time has passed."""
        for period in charged if count else ():
            self._news.unused[period] = self._news.unused.get(period, 0) + count

    # ---- Redis

    async def _call(self, *, want: int, used_until: float | None) -> dict[str, Any]:
        answer = await self._ask(want)
        if answer.get("is_unknown"):
            if used_until is None:
                self._booked_until = float("-inf")
                used_until = await self._touch_book() or 0.0
            answer = await self._ask(want, used_until=used_until)
        # Told once: a run that is over since must not come back from here.
        self._others = {}
        self._is_limited_by_others = bool(answer["is_limited"])
        if answer.get("pace"):
            self._pace.adopt(Control.of(json.loads(answer["pace"])))
            self.heed_pace()
        if answer["held"]:
            self._pace.hold_until(time.time() + answer["held"] / 1_000_000)
        return answer

    async def _touch_book(self) -> float | None:
        """Until when the host was noted to be in use, where that was looked up just now."""
        now = time.time()
        if self._book is None or self._booked_until - now >= REBOOK_SECONDS:
            return None
        used_until, runs = await self._book.touch(now + BOOKED_SECONDS)
        self._booked_until = now + BOOKED_SECONDS
        self._others = {member: describe_limits(limits) for member, limits in runs.items()}
        return used_until

    async def _ask(self, want: int, **more: Any) -> dict[str, Any]:
        self._connect()
        news, self._news = self._news, _News()
        periods = self._periods()
        ask: dict[str, Any] = {
            "member": self._member,
            "limits": {**self._others, self._member: self._rules},
            "kept": KEPT_SECONDS,
            "want": want,
            "sent": news.sent,
            "periods": {
                per: {"id": name, "from": _microseconds(begin), "to": _microseconds(end)}
                for per, (name, begin, end) in periods.items()
            },
            "unused": news.unused,
            "allotted": news.allotted,
        }
        ask |= self._describe_pace()
        if "used_until" in more:
            ask["used_until"] = _microseconds(more["used_until"])
        try:
            answer: dict[str, Any] = json.loads(
                await self._script(keys=self._keys, args=[json.dumps(ask)])
            )
        except redis.RedisError:
            # It may have been told all the same. Twice told, a block of a quota would be sent
            # twice; not told, it is lost, which is the safe side.
            self._news.sent += news.sent
            raise
        if answer.get("is_unknown"):
            self._return_news(news)
        else:
            self._own += news.sent
            # What is not used of the next slots goes back to these periods.
            self.charged = tuple(name for name, _, _ in periods.values())
            if news.sent:
                self._note_counts(answer["granted"])
        return answer

    def _return_news(self, news: _News) -> None:
        """Was not told after all; what was unused is gone with the data that it was taken from."""
        self._news.sent += news.sent
        for period, sends in news.allotted.items():
            self._news.allotted[period] = self._news.allotted.get(period, 0) + sends

    def _describe_pace(self) -> dict[str, Any]:
        control = self._pace.control
        learned = describe_limits(LimitsPart(per_second=self._learned)) if self._learned else False
        told = {"pace": json.dumps(control.as_json()), "pace_at": control.at, "learned": learned}
        if (held_for := control.held_until - time.time()) > 0:
            told["held_for"] = _microseconds(held_for)
        return told

    def _connect(self) -> redis.Redis:
        if self._client is None:
            # A call is not repeated: it may have been heard. Who waits longer is the scan.
            self._client = redis.Redis.from_url(
                self._redis_url,
                socket_timeout=5,
                socket_connect_timeout=1,
                retry=Retry(NoBackoff(), retries=0),
            )
            self._script: Callable[..., Awaitable[Any]] = self._client.register_script(_SCRIPT)
        return self._client

    async def close(self) -> None:
        """Gives back what was leased and not used. The limits stay: the run may still be active."""
        if self._client is None:
            return
        self.give_back(len(self._slots), self.charged)
        with contextlib.suppress(redis.RedisError):
            await self._ask(0)
            if self._rules == "{}":
                await self._client.hdel(self._keys[1], self._member)
        await self._client.aclose()


def forget_member(*, redis_url: str, origin: str, member: str) -> None:
    """Takes the limits of a run that is over off its host. Without Redis they run out."""
    state, limits, _ = keys_of(origin)
    with (
        contextlib.suppress(redis.RedisError),
        SyncRedis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=1) as client,
    ):
        client.hdel(limits, member, f"{member} learned")
        client.hdel(state, f"pace {member}", f"pace at {member}")


def keys_of(origin: str) -> list[str]:
    """State, limits and log of a host; the braces keep them together on a Redis Cluster."""
    return [f"budget:{{{origin}}}{part}" for part in ("", ":limits", ":log")]

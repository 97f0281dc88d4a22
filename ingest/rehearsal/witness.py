"""What the rehearsal upstream saw and said, counted as it happens."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from ingest.outcomes import Outcome

# An answer that comes this much before the named moment still counts as waited for: event loop
# timers and the clocks of two processes differ by a few milliseconds.
CLOCK_TOLERANCE_SECONDS: Final = 0.01


@dataclass(slots=True)
class Wait:
    """A delay that a Retry-After named to an id, and that is not over or not yet come back from."""

    named_at: float
    until: float


@dataclass(slots=True)
class Witness:
    """Counts what the server really saw and said since it was started or reset."""

    total: int = 0
    strays: int = 0
    in_flight: int = 0
    peak_per_second: int = 0
    peak_in_flight: int = 0
    sends: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    bad_answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    last: dict[int, Outcome] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    waits: dict[int, Wait] = field(default_factory=dict)
    waits_named: int = 0
    waits_honoured: int = 0
    waits_violated: int = 0
    seconds_named: float = 0.0
    seconds_named_to: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    seconds_slow: float = 0.0
    idle_seconds: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    _recent: deque[float] = field(default_factory=deque)
    _idle_since: float | None = None
    _latest_wait_until: float = 0.0

    def arrive(self, now: float) -> int:
        """Notes a request; gives how many came within the last second, this one included."""
        self.total += 1
        if self.first_at is None:
            self.first_at = now
        if self._idle_since is not None:
            self.idle_seconds += max(0.0, min(now, self._latest_wait_until) - self._idle_since)
            self._idle_since = None
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        recent = self._recent
        recent.append(now)
        while recent[0] <= now - 1.0:
            recent.popleft()
        self.peak_per_second = max(self.peak_per_second, len(recent))
        return len(recent)

    def leave(self, now: float) -> None:
        self.last_at = now
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle_since = now

    def name_wait(self, number: int, now: float, until: float) -> None:
        self.waits[number] = Wait(now, until)
        self.waits_named += 1
        self.seconds_named += until - now
        self.seconds_named_to[number] += until - now
        self._latest_wait_until = max(self._latest_wait_until, until)

    def is_too_early(self, number: int, now: float) -> bool:
        """Whether the id comes back before the moment that it was told; counts either way."""
        wait = self.waits.get(number)
        if wait is None:
            return False
        if now < wait.until - CLOCK_TOLERANCE_SECONDS:
            self.waits_violated += 1
            return True
        del self.waits[number]
        self.waits_honoured += 1
        return False

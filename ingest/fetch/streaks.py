"""Answers of one kind in a row, counted over several observers who report late. Pure.

What somebody saw can be added in any order: an answer counts by its time, and an answer of another
kind ends what came before it. So a streak is as long as it would be for one who saw everything,
once everybody has reported (`count(until=…)` leaves out what is too fresh for that).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

# Times that are kept one by one; older ones of a longer streak are counted only.
KEPT = 1_000


@dataclass(slots=True)
class Streak:
    """`times` (epoch seconds, ascending) are those since the streak was last broken."""

    broken_at: float = 0.0
    times: list[float] = field(default_factory=list)
    earlier: int = 0

    def extend(self, at: float) -> None:
        """One more answer of the kind, the latest so far."""
        self.times.append(at)
        self._trim()

    def end(self, at: float) -> None:
        """An answer of another kind came at `at`."""
        if at <= self.broken_at:
            return
        self.broken_at = at
        if self.times:
            self.times = self.times[bisect_right(self.times, at) :]
            self.earlier = 0

    def absorb(self, other: Streak) -> None:
        """Adds what somebody else saw."""
        self.end(other.broken_at)
        if other.times:
            fresh = other.times[bisect_right(other.times, self.broken_at) :]
            self.earlier += other.earlier if len(fresh) == len(other.times) else 0
            self.times = sorted([*self.times, *fresh])
            self._trim()

    def count(self, until: float = float("inf")) -> int:
        return self.earlier + bisect_right(self.times, until)

    def _trim(self) -> None:
        surplus = len(self.times) - KEPT
        if surplus > 0:
            self.earlier += surplus
            del self.times[:surplus]

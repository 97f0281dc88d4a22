"""Things that are used in turn, proxies and API keys: one that fails rests for a growing time.

A rest is evidence about that one alone. What fails with all of them is the upstream's affair, and
nobody rests for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

logger = logging.getLogger(__name__)

REST_SECONDS = 5.0
MAX_REST_SECONDS = 300.0
# So many failures in a row, while others work, make a doubt a fact.
ENOUGH_DOUBTS = 5


class Memory(Protocol):
    """Keeps the rests, also for other slices and later ones. `rests` is replaced, never changed."""

    @property
    def rests(self) -> Mapping[str, Mapping[str, Any]]: ...
    def note_rest(self, label: str, rest: Mapping[str, Any]) -> None: ...


@dataclass(slots=True)
class OwnMemory:
    rests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def note_rest(self, label: str, rest: Mapping[str, Any]) -> None:
        self.rests = {**self.rests, label: rest}


class Rotation:
    """Members go by labels that people may see: nothing secret is in them.

    A rest is `{"failures", "at", "until", "reason"}` in epoch seconds; `failures` 0 says that the
    member works again.
    """

    def __init__(
        self, memory: Memory | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._memory = OwnMemory() if memory is None else memory
        self._clock = clock
        self._doubts: dict[str, int] = {}
        self._doubted_at: dict[str, float] = {}
        self._worked_at: dict[str, float] = {}

    def choose(
        self, labels: Sequence[str], *, turn: int, avoid: Collection[str] = ()
    ) -> str | None:
        """The next that does not rest. Where all do, the one whose rest ends first, if none was
        tried before (`avoid`): somebody has to find out whether it works again."""
        rests = self._memory.rests
        count = len(labels)
        if not rests:
            ordered = (labels[(turn + step) % count] for step in range(count))
            return next((label for label in ordered if label not in avoid), None)
        now = self._clock()
        resting: list[tuple[float, str]] = []
        for step in range(count):
            label = labels[(turn + step) % count]
            until = rests.get(label, {}).get("until", 0.0)
            if until > now:
                resting.append((until, label))
            elif label not in avoid:
                return label
        return min(resting)[1] if len(resting) == count and not avoid else None

    def note_success(self, label: str) -> None:
        self._worked_at[label] = self._clock()
        self._doubts.pop(label, None)
        if self._memory.rests and self._memory.rests.get(label, {}).get("failures"):
            logger.info("%s works again.", label)
            self._memory.note_rest(
                label, {"failures": 0, "at": self._clock(), "until": 0.0, "reason": ""}
            )

    def is_resting(self, label: str) -> bool:
        return bool(self._memory.rests.get(label, {}).get("until", 0.0) > self._clock())

    def note_failure(
        self, label: str, reason: str, *, since: float, seconds: float | None = None
    ) -> None:
        """Sets it aside, for `seconds` or for longer each time. Of many sends that were under way
        at once, the first to fail counts."""
        before = self._memory.rests.get(label, {})
        now = self._clock()
        if before.get("at", 0.0) >= since:
            return
        failures = before.get("failures", 0) + 1
        if seconds is None:
            seconds = REST_SECONDS * 2.0 ** min(failures - 1, 30)
        seconds = min(MAX_REST_SECONDS, seconds)
        logger.warning("%s is set aside for %d seconds: %s", label, seconds, reason)
        self._doubts.pop(label, None)
        self._memory.note_rest(
            label, {"failures": failures, "at": now, "until": now + seconds, "reason": reason}
        )

    def note_doubt(self, label: str, reason: str, *, since: float) -> None:
        """It may be this one's fault or the upstream's: the fifth in a row while another works
        decides."""
        if not self._doubts.get(label):
            self._doubted_at[label] = since
        self._doubts[label] = self._doubts.get(label, 0) + 1
        if self._doubts[label] >= ENOUGH_DOUBTS and self._has_other_worked(
            label, since=self._doubted_at[label]
        ):
            self.note_failure(label, reason, since=since)

    def _has_other_worked(self, label: str, *, since: float) -> bool:
        return any(at >= since for other, at in self._worked_at.items() if other != label)


def describe_rests(
    before: Mapping[str, Mapping[str, Any]], news: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """(label, reason) of those that were set aside anew; the reason is empty where one works again.

    One that fails its trial again and again is told once.
    """
    changes = []
    for label, rest in news.items():
        had_failed = bool(before.get(label, {}).get("failures"))
        if bool(rest.get("failures")) != had_failed:
            changes.append((label, str(rest.get("reason", ""))))
    return changes

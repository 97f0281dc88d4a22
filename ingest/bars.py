"""Outcome counts as the segments of one horizontal bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.translation import gettext as _

from ingest.outcomes import Outcome

WIDTH = 1000
# Three failures among ten thousand must not vanish from the picture.
MIN_WIDTH = 6

# From the good news over what a sweep may heal to what is left to do.
_ORDER = (
    Outcome.DELIVERED,
    Outcome.EMPTY,
    Outcome.MALFORMED,
    Outcome.MISSING,
    Outcome.DENIED,
    Outcome.REFUSED,
    Outcome.BLOCKED,
    Outcome.FAILED,
    Outcome.CANCELLED,
    Outcome.PLANNED,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One outcome's share of a bar that is `WIDTH` units wide."""

    outcome: Outcome
    count: int
    x: int
    width: int

    @property
    def label(self) -> str:
        return str(self.outcome.label)


@dataclass(frozen=True, slots=True)
class OutcomeBar:
    segments: tuple[Segment, ...]

    @property
    def total(self) -> int:
        return sum(segment.count for segment in self.segments)

    @property
    def width(self) -> int:
        return WIDTH

    @property
    def description(self) -> str:
        """The bar in words, for those who do not see it."""
        parts = [f"{s.label} {s.count}" for s in self.segments if s.count]
        return ", ".join(parts) or _("no requests")


def draw_outcomes(counts: Mapping[str, int]) -> OutcomeBar:
    """Segments in proportion, none that counts anything narrower than `MIN_WIDTH`, Σ = `WIDTH`.

    `run.js` draws the same while a run is going on.
    """
    total = sum(counts.get(outcome, 0) for outcome in _ORDER)
    widths = {o: max(MIN_WIDTH, counts[o] * WIDTH // total) for o in _ORDER if counts.get(o)}
    if widths:
        widths[max(widths, key=widths.__getitem__)] += WIDTH - sum(widths.values())
    segments, x = [], 0
    for outcome in _ORDER:
        width = widths.get(outcome, 0)
        segments.append(Segment(outcome, counts.get(outcome, 0), x, width))
        x += width
    return OutcomeBar(tuple(segments))

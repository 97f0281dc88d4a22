"""What a search answers with: hits as people see them, counts, and how far the index is."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import get_script_prefix, reverse

from ingest.changes import State
from ingest.readthrough import FRESH, Origin
from search.documents import split_name
from search.engines.base import Deadline, EngineHit
from search.highlight import Highlighter, Range
from search.histogram import Bucket, from_microseconds
from search.plan import RANK_UNIT, Plan
from search.query import Kind

# Part of what a kept answer is found by: raise it whenever one of the classes below changes.
ANSWER_VERSION = 1


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit as people see it. Ranges are half-open code points of `title` and of `text`."""

    id: str
    kind: str
    source: str | None
    outcome: str | None
    status_code: int | None
    title: str
    text: str
    data: Any
    title_ranges: list[Range]
    text_ranges: list[Range]
    score: float | None
    at_us: int
    url: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "source": self.source,
            "outcome": self.outcome,
            "status_code": self.status_code,
            "title": self.title,
            "text": self.text,
            "data": self.data,
            "highlights": {
                "title": [list(found) for found in self.title_ranges],
                "text": [list(found) for found in self.text_ranges],
            },
            "score": self.score,
            "occurred_at": format_time(self.at_us),
            "url": self.url,
        }


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """One page of hits, and counts over all of them.

    `facets` per field: (value, count), most first, the documents without a value (None) last; each
    sums to `total`, and so does `histogram`. Both are empty when only hits were asked for. `next`
    is the cursor of the next page.
    """

    took_ms: float
    total: int
    engine: str
    coverage: State
    did_you_mean: str | None
    warnings: tuple[str, ...]
    results: list[Hit]
    facets: dict[str, list[tuple[str | int | None, int]]]
    histogram: list[Bucket]
    next: str | None
    origin: Origin = FRESH

    def as_dict(self) -> dict[str, Any]:
        """The answer of the JSON API."""
        return {
            "success": True,
            "took_ms": self.took_ms,
            "total": self.total,
            "engine": self.engine,
            "coverage": {
                "as_of": self.coverage.as_of.isoformat().replace("+00:00", "Z"),
                "pending": self.coverage.pending,
                "parked": self.coverage.parked,
            },
            "did_you_mean": self.did_you_mean,
            "warnings": list(self.warnings),
            "results": [hit.as_dict() for hit in self.results],
            "facets": {
                name: [{"value": value, "count": count} for value, count in values]
                for name, values in self.facets.items()
            },
            "histogram": [
                {
                    "from": format_time(bucket.from_us),
                    "to": format_time(bucket.to_us),
                    "count": bucket.count,
                }
                for bucket in self.histogram
            ],
            "next": self.next,
        }


def show_hits(hits: Sequence[EngineHit], plan: Plan, deadline: Deadline) -> list[Hit]:
    """The page of an answer. With little time left the last hits are shown without their marks."""
    highlighter = Highlighter(
        plan, hits=len(hits), count_seconds_left=lambda: deadline.remaining_seconds
    )
    return [_show_hit(hit, highlighter) for hit in hits]


def _show_hit(hit: EngineHit, highlighter: Highlighter) -> Hit:
    shown: Mapping[str, Any] = hit.shown
    title_ranges, text, text_ranges = highlighter.mark(shown["title"], shown["body"])
    return Hit(
        id=shown["id"],
        kind=shown["kind"],
        source=shown["source"],
        outcome=shown["outcome"],
        status_code=shown["status_code"],
        title=shown["title"],
        text=text,
        data=shown["data"],
        title_ranges=title_ranges,
        text_ranges=text_ranges,
        score=None if hit.score_units is None else round(hit.score_units / RANK_UNIT, 4),
        at_us=shown["at_us"],
        url=find_url(shown["id"]),
    )


def format_time(at_us: int) -> str:
    return from_microseconds(at_us).isoformat().replace("+00:00", "Z")


def find_url(document_id: str) -> str:
    """The address of the page of a document."""
    kind, pk = split_name(document_id)
    before, after = _cut_url(kind, get_script_prefix())
    return f"{before}{pk}{after}"


@functools.cache
def _cut_url(kind: str, script_prefix: str) -> tuple[str, str]:
    """The address of a document before and after its number; `reverse` takes 0.1 ms."""
    name = "search:record" if kind == Kind.RECORD else "ingest:error"
    before, _, after = reverse(name, args=[0]).rpartition("0")
    return before, after

"""Searching, for everybody outside this app: API, pages, commands, health."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q
from django.urls import reverse

from ingest.models import ErrorLog, Record, Source
from search import cursor as cursors
from search import indexer
from search.cursor import Cursor, Position
from search.engines import get_engine
from search.engines.base import (
    FACETS,
    Deadline,
    EngineHit,
    Found,
    IndexMissing,
    Order,
    Summary,
    View,
)
from search.highlight import Range, cut_passage, highlight_title
from search.histogram import Bucket, choose_step, from_microseconds, join_steps
from search.indexer import Coverage
from search.plan import (
    ENOUGH_HITS,
    RANK_UNIT,
    Plan,
    Visibility,
    build_plan,
    list_stages,
)
from search.query import Kind, SearchQuery, Sort

_ORDERS = {Sort.SCORE: Order.BEST, Sort.OLDEST: Order.OLDEST, Sort.NEWEST: Order.NEWEST}
_POLL_SECONDS = 0.1

User = AbstractBaseUser | AnonymousUser


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
    sums to `total`, and so does `histogram`. `next` is the cursor of the next page.
    """

    took_ms: float
    total: int
    engine: str
    coverage: Coverage
    did_you_mean: str | None
    warnings: tuple[str, ...]
    results: list[Hit]
    facets: dict[str, list[tuple[str | int | None, int]]]
    histogram: list[Bucket]
    next: str | None

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


def search(query: SearchQuery, *, user: User) -> SearchAnswer:
    """The page of hits that `query` asks for, of what `user` may see.

    Raises SearchUnavailable (also SearchTimeout after SEARCH_TIMEOUT_SECONDS): an engine that
    cannot answer is never an empty list.
    """
    started_at = time.perf_counter()
    engine = get_engine()
    coverage = indexer.read_coverage()
    visibility = read_visibility(user)
    deadline = Deadline(settings.SEARCH_TIMEOUT_SECONDS)
    try:
        view = engine.open()
    except IndexMissing:
        if _has_documents():
            raise
        plan, found, summary, step = _answer_nothing(query, visibility)
    else:
        with closing(view):
            plan, found = find_hits(view, query, visibility, deadline)
            step = choose_step(query, view.read_time_bounds())
            summary = view.summarise(plan, found, interval_us=step, deadline=deadline)
    results = [_show(hit, plan) for hit in found.hits[: query.size]]
    deadline.check()
    return SearchAnswer(
        took_ms=round((time.perf_counter() - started_at) * 1000, 1),
        total=found.total,
        engine=engine.name,
        coverage=coverage,
        did_you_mean=None,
        warnings=query.warnings,
        results=results,
        facets=_complete_facets(summary, found.total),
        histogram=join_steps(summary.histogram, step),
        next=_write_cursor(query, plan, found),
    )


def engine_status() -> dict[str, Any]:
    """For the health page: {"ok", "engine", "detail", "reason"}. Never raises.

    `detail` is for the operator's eyes only; `reason` says what is wrong to anybody.
    """
    engine = get_engine()
    status = engine.check()
    if status.is_missing and not _has_documents():
        return {"ok": True, "engine": engine.name, "detail": "nothing to index yet", "reason": ""}
    return {
        "ok": status.ok,
        "engine": engine.name,
        "detail": status.detail,
        "reason": status.reason,
    }


def wait_until_indexed(timeout_seconds: float) -> int:
    """Waits until nothing is pending, or the time is over; says how many documents still are."""
    ends_at = time.monotonic() + timeout_seconds
    while (pending := indexer.read_coverage().pending) and time.monotonic() < ends_at:
        time.sleep(_POLL_SECONDS)
    return pending


def read_visibility(user: User) -> Visibility:
    """What `user` may find; read from the database at each search."""
    is_staff = bool(getattr(user, "is_staff", False))
    matters = Q(archived_at__isnull=False)
    if user.is_authenticated and not is_staff:
        matters |= Q(owner_id=user.pk)
    rows = Source.objects.filter(matters).order_by("slug").values_list("slug", "archived_at")
    return Visibility(
        all_errors=is_staff,
        own_sources=tuple(slug for slug, archived_at in rows if archived_at is None),
        archived_sources=tuple(slug for slug, archived_at in rows if archived_at is not None),
    )


def format_time(at_us: int) -> str:
    return from_microseconds(at_us).isoformat().replace("+00:00", "Z")


def _has_documents() -> bool:
    return Record.objects.exists() or ErrorLog.objects.exists()


def _answer_nothing(query: SearchQuery, visibility: Visibility) -> tuple[Plan, Found, Summary, int]:
    """A new portal has neither rows nor an index."""
    plan = build_plan(query, stage=0, visibility=visibility)
    empty = Summary(facets={name: {} for name in FACETS}, histogram={})
    return plan, Found(total=0, hits=[]), empty, 1


def find_hits(
    view: View, query: SearchQuery, visibility: Visibility, deadline: Deadline
) -> tuple[Plan, Found]:
    """The hits of the first stage that finds enough, or of the one that the cursor pins.

    One more than a page, to know whether there is a next one. Raises SearchUnavailable.
    """
    order = _ORDERS[query.sort]
    after = query.cursor.position if query.cursor else None
    stages = [query.cursor.stage] if query.cursor else list_stages(query.text)
    for stage in stages:
        plan = build_plan(query, stage=stage, visibility=visibility)
        found = view.find(plan, order=order, size=query.size + 1, after=after, deadline=deadline)
        if found.total >= max(query.size, ENOUGH_HITS):
            break
    return plan, found


def _show(hit: EngineHit, plan: Plan) -> Hit:
    shown: Mapping[str, Any] = hit.shown
    text, text_ranges = cut_passage(shown["body"], plan)
    return Hit(
        id=shown["id"],
        kind=shown["kind"],
        source=shown["source"],
        outcome=shown["outcome"],
        status_code=shown["status_code"],
        title=shown["title"],
        text=text,
        data=shown["data"],
        title_ranges=highlight_title(shown["title"], plan),
        text_ranges=text_ranges,
        score=None if hit.score_units is None else round(hit.score_units / RANK_UNIT, 4),
        at_us=shown["at_us"],
        url=_find_url(shown["id"]),
    )


def _find_url(document_id: str) -> str:
    kind, pk = document_id.split("-", 1)
    if kind == Kind.RECORD:
        return reverse("search:record", args=[pk])
    return reverse("ingest:error", args=[pk])


def _complete_facets(summary: Summary, total: int) -> dict[str, list[tuple[str | int | None, int]]]:
    facets: dict[str, list[tuple[str | int | None, int]]] = {}
    for name in FACETS:
        counts = summary.facets[name]
        values: list[tuple[str | int | None, int]] = [
            *sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
        ]
        without = total - sum(counts.values())
        facets[name] = [*values, (None, without)] if without else values
    return facets


def _write_cursor(query: SearchQuery, plan: Plan, found: Found) -> str | None:
    if len(found.hits) <= query.size:
        return None
    last = found.hits[query.size - 1]
    seen = (query.cursor.position.seen if query.cursor else 0) + query.size
    position = Position(value=last.value, tie=last.tie, seen=seen)
    cursor = Cursor(stage=plan.stage, position=position)
    return cursors.write(cursor, fingerprint=query.fingerprint)

"""Searching, for everybody outside this app: API, pages, commands, health."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from ingest.changes import State, read_state
from ingest.models import ErrorLog, Record
from ingest.readthrough import read_through
from search import cursor as cursors
from search.answers import ANSWER_VERSION, SearchAnswer, show_hits
from search.cursor import Cursor, Position
from search.engines import get_engine
from search.engines.base import (
    FACETS,
    Deadline,
    Engine,
    Found,
    IndexMissing,
    Order,
    Summary,
    View,
)
from search.histogram import Bucket, choose_step, join_steps
from search.plan import Plan, Visibility, build_plan, list_stages
from search.query import Parts, SearchQuery, Sort
from search.suggestion import suggest_text
from search.visibility import User, read_visibility

ORDERS = {Sort.SCORE: Order.BEST, Sort.OLDEST: Order.OLDEST, Sort.NEWEST: Order.NEWEST}
_POLL_SECONDS = 0.1
# A kept answer that was waited for to the last moment is not refused for want of time to ask.
_PING_SECONDS = 0.1


def search(query: SearchQuery, *, user: User) -> SearchAnswer:
    """The page of hits that `query` asks for, of what `user` may see.

    Out of the cache while neither index nor visibility has changed; its coverage is that of now in
    any case. Raises SearchUnavailable (also SearchTimeout after SEARCH_TIMEOUT_SECONDS): an engine
    that cannot answer is never an empty list.
    """
    started_at = time.perf_counter()
    deadline = Deadline(settings.SEARCH_TIMEOUT_SECONDS)
    engine = get_engine()
    state = read_state()
    visibility = read_visibility(user, state)
    question = (query.fingerprint, query.size, query.cursor, query.parts)
    answer, origin = read_through(
        ("search", ANSWER_VERSION, engine.name, get_language(), visibility, *question),
        stamp=state.index_token,
        make=lambda: _ask(engine, query, visibility, state, deadline),
        wait_seconds=deadline.remaining_seconds,
    )
    if origin.is_hit:
        # Who asks while the engine is down is told so, whatever was kept.
        engine.ping(deadline=Deadline(max(deadline.remaining_seconds, _PING_SECONDS)))
    return replace(
        answer,
        took_ms=round((time.perf_counter() - started_at) * 1000, 1),
        coverage=state,
        origin=origin,
    )


def _ask(
    engine: Engine,
    query: SearchQuery,
    visibility: Visibility,
    state: State,
    deadline: Deadline,
) -> SearchAnswer:
    deadline.check()
    facets: dict[str, list[tuple[str | int | None, int]]] = {}
    histogram: list[Bucket] = []
    try:
        view = engine.open(deadline=deadline)
    except IndexMissing:
        if has_documents():
            raise
        # A new portal has neither rows nor an index.
        plan = build_plan(query, stage=0, visibility=visibility)
        found = Found(plan, total=0, hits=[])
        if query.parts is Parts.ALL:
            facets = {name: [] for name in FACETS}
    else:
        with closing(view):
            plan, found = find_hits(
                view, query, visibility, deadline, is_counted=query.parts is Parts.ALL
            )
            if found.summary is not None:
                facets = _complete_facets(found.summary, found.total)
                histogram = join_steps(found.summary.histogram, found.summary.interval_us)
    results = show_hits(found.hits[: query.size], plan, deadline)
    return SearchAnswer(
        took_ms=0,
        total=found.total,
        engine=engine.name,
        coverage=state,
        did_you_mean=suggest_text(query, plan, results),
        warnings=(*query.warnings, *_warn_of_exclusions(query, found.total)),
        results=results,
        facets=facets,
        histogram=histogram,
        next=_write_cursor(query, plan, found),
    )


def _warn_of_exclusions(query: SearchQuery, total: int) -> list[str]:
    """A minus that was not meant as one would otherwise look like an empty index."""
    if total or not query.text.excluded:
        return []
    left_out = ", ".join(" ".join(words) for words in query.text.excluded)
    return [_("Nothing is left without: %(words)s") % {"words": left_out}]


def engine_status() -> dict[str, Any]:
    """For the health page: {"ok", "engine", "detail", "reason", "hint"}. Never raises.

    `detail` is for the operator's eyes only; `reason` says what is wrong to anybody. `hint` is what
    an operator could do although all is well.
    """
    engine = get_engine()
    status = engine.check()
    told = {"ok": status.ok, "engine": engine.name, "detail": status.detail}
    if status.is_missing and not has_documents():
        return {**told, "ok": True, "detail": "nothing to index yet", "reason": "", "hint": ""}
    hint = ""
    if status.is_outdated:
        hint = _("The index was built by another version: run “manage.py rebuild_index”.")
    return {**told, "reason": status.reason, "hint": hint}


def wait_until_indexed(timeout_seconds: float) -> int:
    """Waits until nothing is pending, or the time is over; says how many documents still are."""
    ends_at = time.monotonic() + timeout_seconds
    while (pending := read_state().pending) and time.monotonic() < ends_at:
        time.sleep(_POLL_SECONDS)
    return pending


def has_documents() -> bool:
    """Whether there is anything that an index should hold."""
    return Record.objects.exists() or ErrorLog.objects.exists()


def find_hits(
    view: View,
    query: SearchQuery,
    visibility: Visibility,
    deadline: Deadline,
    *,
    is_counted: bool = False,
) -> tuple[Plan, Found]:
    """The hits of the first stage that finds enough, and one that meets all words if any stage
    finds one; or of the stage that the cursor pins.

    One more than a page, to know whether there is a next one; facets and histogram beside them if
    it `is_counted`. Raises SearchUnavailable.
    """
    stages = [query.cursor.stage] if query.cursor else list_stages(query.text)
    interval_us = None
    if is_counted:
        interval_us = choose_step(query, view.read_time_bounds(deadline=deadline))
    found = view.find(
        [build_plan(query, stage=stage, visibility=visibility) for stage in stages],
        order=ORDERS[query.sort],
        size=query.size + 1,
        after=query.cursor.position if query.cursor else None,
        interval_us=interval_us,
        deadline=deadline,
    )
    return found.plan, found


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

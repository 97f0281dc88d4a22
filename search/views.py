"""The pages of search: the results, and one record with where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from ingest import selectors
from ingest.models import Delivery, Run
from ingest.outcomes import Outcome
from search.answers import Hit, SearchAnswer, format_time
from search.errors import InvalidQuery, SearchError
from search.export import Format
from search.highlight import Range
from search.histogram import DAY, Bucket, from_microseconds
from search.query import Kind, Parts, Sort, read_query
from search.services import engine_status, search

_FACET_TITLES = {
    "kind": gettext_lazy("Kind"),
    "source": gettext_lazy("Source"),
    "outcome": gettext_lazy("Outcome"),
    "status": gettext_lazy("Status"),
}
_KIND_TITLES = {
    Kind.RECORD.value: gettext_lazy("Records"),
    Kind.ERROR.value: gettext_lazy("Errors"),
}
_SORTS = [
    (Sort.SCORE.value, gettext_lazy("Best match")),
    (Sort.NEWEST.value, gettext_lazy("Newest first")),
    (Sort.OLDEST.value, gettext_lazy("Oldest first")),
]
_SHOWN_VALUES = 10
# The state of a search that the form and the links carry; the cursor belongs to one page of it.
_STATE = ("q", "kind", "source", "outcome", "status", "since", "until", "sort", "size")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text, highlighted or not."""

    text: str
    is_hit: bool


@dataclass(frozen=True, slots=True)
class ShownHit:
    hit: Hit
    title: list[Piece]
    text: list[Piece]
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class FacetValue:
    label: str
    count: int
    url: str | None
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Facet:
    title: str
    values: list[FacetValue]
    clear_url: str | None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bucket of the histogram, drawn in a 100-high box."""

    label: str
    count: int
    url: str
    x: float
    width: float
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height


@require_safe
@login_required
def search_page(request: HttpRequest) -> HttpResponse:
    """Results from the same service as the API, as HTML; everything is a link or a plain form."""
    state = {name: request.GET[name] for name in _STATE if request.GET.get(name)}
    context: dict[str, Any] = {"state": state, "q": state.get("q", ""), "sorts": _SORTS}
    context["carried"] = {name: value for name, value in state.items() if name not in ("q", "sort")}
    status, wait_seconds = 200, None
    try:
        # A page shows all parts, whatever its address says.
        query = replace(read_query(dict(request.GET.lists())), parts=Parts.ALL)
        answer = search(query, user=request.user)
    except SearchError as error:
        status, wait_seconds = error.status_code, error.wait_seconds
        context["problem"] = _describe_problem(error, retry_url=request.get_full_path())
    else:
        context |= _describe_answer(request, state, answer)
        context["sort"] = query.sort.value
    if getattr(request.user, "is_staff", False):
        state_of_engine = engine_status()
        context["engine_hint"] = state_of_engine["reason"] or state_of_engine["hint"]
    response = render(request, "search/page.html", context, status=status)
    if wait_seconds is not None:
        response["Retry-After"] = str(max(1, round(wait_seconds)))
    return response


@require_safe
@login_required
def record_page(request: HttpRequest, pk: int) -> HttpResponse:
    """One record: its fields, and the requests that delivered it, newest run first."""
    visible = selectors.visible_records(request.user).select_related("source")
    record = get_object_or_404(visible, pk=pk)
    deliveries = (
        Delivery.objects.filter(run__source=record.source_id, record_key=record.key)
        .select_related("request")
        .order_by("-run_id", "request_id")[:20]
    )
    # One of each run: a configuration may hold millions of values.
    runs = Run.objects.in_bulk({delivery.run_id for delivery in deliveries})
    configurations = {pk: selectors.public_configuration_of(run) for pk, run in runs.items()}
    provenance = [
        {
            "run": runs[delivery.run_id],
            "request": selectors.describe_request(
                delivery.request, configurations[delivery.run_id]
            ),
            "is_current": delivery.content_hash == record.content_hash,
        }
        for delivery in deliveries
    ]
    context = {
        "record": record,
        "fields": list(flatten_fields(record.data)),
        "provenance": provenance,
    }
    return render(request, "search/record.html", context)


def flatten_fields(data: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(path, value as text) of each field; nested objects down to four levels by dotted path."""
    if isinstance(data, dict) and data and depth < 4:
        for name, value in data.items():
            yield from flatten_fields(value, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(data, list) and not any(isinstance(item, (dict, list)) for item in data):
        yield path, ", ".join(_show_value(item) for item in data)
    else:
        yield path, _show_value(data)


def cut_pieces(text: str, ranges: list[Range]) -> list[Piece]:
    """`text` in pieces, those of `ranges` marked as hits."""
    pieces: list[Piece] = []
    position = 0
    for start, end in ranges:
        if start > position:
            pieces.append(Piece(text[position:start], is_hit=False))
        pieces.append(Piece(text[start:end], is_hit=True))
        position = end
    if position < len(text):
        pieces.append(Piece(text[position:], is_hit=False))
    return pieces


def _show_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _describe_problem(error: SearchError, *, retry_url: str) -> dict[str, Any]:
    if isinstance(error, InvalidQuery):
        return {"level": "warning", "title": _("This search cannot be run"), "text": error.message}
    return {
        "level": "danger",
        "title": error.message,
        "text": _("Nothing is lost, and what changes meanwhile will be found afterwards."),
        "retry_url": retry_url,
    }


def _describe_answer(
    request: HttpRequest, state: dict[str, str], answer: SearchAnswer
) -> dict[str, Any]:
    return {
        "answer": answer,
        "hits": [
            ShownHit(
                hit=hit,
                title=cut_pieces(hit.title, hit.title_ranges),
                text=cut_pieces(hit.text, hit.text_ranges),
                occurred_at=from_microseconds(hit.at_us),
            )
            for hit in answer.results
        ],
        "facets": [_describe_facet(name, state, answer) for name in _FACET_TITLES],
        "bars": _draw_bars(state, answer.histogram),
        "first_url": _link(state) if "cursor" in request.GET else None,
        "next_url": _link(state, cursor=answer.next) if answer.next else None,
        "meant_url": _link(state, q=answer.did_you_mean) if answer.did_you_mean else None,
        "exports": [
            {
                "label": _("Export %(format)s") % {"format": form.upper()},
                "url": reverse("search-api:export", query={**state, "format": form}),
            }
            for form in Format
        ],
        "span": (
            (
                from_microseconds(answer.histogram[0].from_us),
                from_microseconds(answer.histogram[-1].to_us),
            )
            if answer.histogram
            else None
        ),
        "all_times_url": _link(state, since=None, until=None)
        if "since" in state or "until" in state
        else None,
    }


def _link(state: dict[str, str], **changes: str | None) -> str:
    parameters = {name: value for name, value in (state | changes).items() if value is not None}
    return reverse("search:page", query=parameters)


def _describe_facet(name: str, state: dict[str, str], answer: SearchAnswer) -> Facet:
    chosen = [value for value in state.get(name, "").split(",") if value]
    values = []
    for value, count in answer.facets[name][:_SHOWN_VALUES]:
        is_chosen = str(value) in chosen
        others = [other for other in chosen if other != str(value)]
        wanted = others if is_chosen else [*others, str(value)]
        url = None if value is None else _link(state, **{name: ",".join(wanted) or None})
        values.append(FacetValue(_label(name, value), count, url, is_chosen))
    return Facet(
        title=str(_FACET_TITLES[name]),
        values=values,
        clear_url=_link(state, **{name: None}) if chosen else None,
    )


def _label(name: str, value: str | int | None) -> str:
    if value is None:
        return _("none")
    if name == "kind":
        return str(_KIND_TITLES.get(str(value), value))
    if name == "outcome" and value in Outcome.values:
        return str(Outcome(str(value)).label).capitalize()
    return str(value)


def _draw_bars(state: dict[str, str], buckets: list[Bucket]) -> list[Bar]:
    if not buckets:
        return []
    highest = max(bucket.count for bucket in buckets)
    width = 1000 / len(buckets)
    return [
        Bar(
            label=_describe_span(bucket),
            count=bucket.count,
            url=_link(state, since=format_time(bucket.from_us), until=format_time(bucket.to_us)),
            x=round(index * width, 2),
            width=round(width * 0.86, 2),
            # The smallest bar stays visible.
            height=round(max(bucket.count / highest * 100, 3), 2) if bucket.count else 0,
        )
        for index, bucket in enumerate(buckets)
    ]


def _describe_span(bucket: Bucket) -> str:
    start, end = from_microseconds(bucket.from_us), from_microseconds(bucket.to_us)
    if bucket.to_us - bucket.from_us == DAY:
        return f"{start:%Y-%m-%d}"
    if bucket.to_us - bucket.from_us > DAY:
        return f"{start:%Y-%m-%d} – {end:%Y-%m-%d}"
    if bucket.to_us - bucket.from_us >= 60_000_000:
        return f"{start:%Y-%m-%d %H:%M} – {end:%H:%M}"
    return f"{start:%Y-%m-%d %H:%M:%S.%f} – {end:%H:%M:%S.%f}"

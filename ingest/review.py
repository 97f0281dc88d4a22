"""The report of a finished run for a page: counted once, and named a page at a time.

What a finished run has proved does not change, so it is kept in the cache until the run is opened
again. Whether its records can be found by a search may change at any time: that is asked again
after a while, and each time for those that were not found the last time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.cache import cache
from django.utils import timezone

from ingest import reconcile, runs
from ingest.models import Delivery, Run
from ingest.ports import IndexUnavailable, index_lookup
from ingest.selectors import count_outcomes

KEPT_SECONDS = 86_400
INDEX_TRUSTED_SECONDS = 60
# More than this is not kept by name; it is asked for anew.
MOST_NAMES = 5_000


@dataclass(frozen=True, slots=True)
class Review:
    """The counts of `reconcile.Reconciliation`; `indexed` is None while nobody can tell."""

    as_of: datetime
    unknown: int
    upstream_total: int | None
    distinct_keys: int
    duplicates: int
    stored: int
    indexed: int | None
    missing: int
    not_stored: int
    not_indexed: int | None
    verdict: dict[str, Any]


def review_run(run: Run) -> Review:
    """The report on a finished run; the exact one of this moment is `reconcile.reconcile_run`."""
    # With its time: after a restored backup, another run may bear the number.
    name = f"review:{run.pk}:{run.created_at.timestamp()}:{run.event_seq}"
    figures = cache.get(name)
    if figures is None:
        figures = _count_figures(run)
        cache.set(name, figures, KEPT_SECONDS)
    not_indexed = _count_not_indexed(run, f"{name}:index")
    outcomes = count_outcomes(run)
    unknown = reconcile.count_unknown(run, outcomes)
    stored = figures["distinct_keys"] - figures["not_stored"]
    return Review(
        as_of=timezone.now(),
        unknown=unknown,
        upstream_total=run.upstream_total,
        stored=stored,
        indexed=None if not_indexed is None else stored - not_indexed,
        not_indexed=not_indexed,
        verdict=reconcile.give_verdict(
            run,
            outcomes,
            unknown=unknown,
            missing=figures["missing"],
            distinct_keys=figures["distinct_keys"],
            not_stored=figures["not_stored"],
            not_indexed=not_indexed,
        ),
        **figures,
    )


def _count_figures(run: Run) -> dict[str, int]:
    distinct_keys = runs.count_distinct_keys(run)
    return {
        "distinct_keys": distinct_keys,
        "duplicates": Delivery.objects.filter(run=run).count() - distinct_keys,
        "missing": reconcile.select_missing(run).count(),
        "not_stored": sum(1 for _ in reconcile.find_not_stored(run)),
    }


def _count_not_indexed(run: Run, name: str) -> int | None:
    lookup = index_lookup()
    known: list[str] | None = cache.get(name)
    if lookup is None:
        return None
    if not known:
        if known is not None:
            return 0
        found = reconcile.find_not_indexed(run)
        absent = None if found is None else [each["id"] for each in found]
    else:
        try:
            absent = sorted(lookup.find_absent(known))
        except IndexUnavailable:
            absent = None
    if absent is not None and len(absent) <= MOST_NAMES:
        cache.set(name, absent, INDEX_TRUSTED_SECONDS)
    return None if absent is None else len(absent)

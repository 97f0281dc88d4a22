"""What the home page tells: the latest runs and how ingestion does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.urls import reverse
from django.utils import timezone

from ingest import ports, selectors
from ingest.models import Run, Source
from ingest.outcomes import FINAL_STATES, Outcome, RunState
from ingest.permissions import visible_runs

LATEST_RUNS = 6


def describe_overview(user: AbstractBaseUser) -> dict[str, Any]:
    """The figures of the home page; how many rows it reads does not grow with the ledger."""
    day_ago = timezone.now() - timedelta(days=1)
    runs = visible_runs()
    latest = runs.order_by("-id")[:LATEST_RUNS]
    return {
        "runs": [_describe_run(run) for run in latest],
        "source_count": Source.objects.filter(archived_at__isnull=True).count(),
        "active_count": runs.exclude(state__in=FINAL_STATES).count(),
        "gap_count": runs.filter(finished_at__gte=day_ago, state__in=FINAL_STATES)
        .exclude(state=RunState.COMPLETE)
        .count(),
        "error_count": selectors.visible_errors(user).filter(occurred_at__gte=day_ago).count(),
        "pending_count": _count_pending(),
    }


def _describe_run(run: Run) -> dict[str, Any]:
    outcomes = selectors.count_outcomes(run)
    return {
        "run": run,
        "url": reverse("ingest:run", args=[run.pk]),
        "delivered": outcomes[Outcome.DELIVERED],
        "percent": 100 * outcomes[Outcome.DELIVERED] // run.planned_total
        if run.planned_total
        else 0,
    }


def _count_pending() -> int | None:
    """Documents that are not searchable yet; None when nobody can say."""
    lookup = ports.index_lookup()
    return lookup.count_pending() if lookup else None

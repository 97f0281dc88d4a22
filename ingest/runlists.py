"""Many runs at once: their outcomes counted by one query, however many of them are active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Count

from ingest import selectors
from ingest.models import Request, Run
from ingest.outcomes import Outcome


def describe_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What `selectors.describe_run` says of each run. The runs come with their sources."""
    active = _count_active([run.pk for run in runs if not run.is_finished])
    return [selectors.describe_run(run, outcomes=active.get(run.pk)) for run in runs]


def _count_active(run_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    counts = {run_id: dict.fromkeys(Outcome.values, 0) for run_id in run_ids}
    if counts:
        rows = Request.objects.filter(run__in=run_ids).order_by().values_list("run", "outcome")
        for run_id, outcome, count in rows.annotate(count=Count("pk")):
            counts[run_id][outcome] = count
    return counts

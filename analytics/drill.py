"""Where a bar of a chart leads: to exactly the rows that it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from django.urls import reverse

from analytics.filters import Filters, Period
from analytics.frames import SourceChoice
from ingest.outcomes import Outcome


def link_segments(
    filters: Filters,
    period: Period,
    runs: pd.DataFrame,
    *,
    sees_errors: bool,
) -> Callable[[str, int], str | None]:
    """The address behind a segment (outcome, index of the slot).

    The error log has one row for each send that did not deliver, so a search over the same time
    finds as many as the bar counts, for those who may see them all (`sees_errors`). Everything else
    leads to the run, or to the list of runs where several share the bar.
    """
    search, all_runs = reverse("search:page"), reverse("ingest:runs")
    single = {outcome: runs[outcome].tolist() for outcome in runs.columns}
    # Nothing here needs quoting: slugs, outcomes, times. Quoting each would cost 4 ms a chart.
    source = f"&source={','.join(filters.sources)}" if filters.sources else ""
    times = [f"{period.start_of(index):%Y-%m-%dT%H:%M:%SZ}" for index in range(period.count + 1)]

    def find_url(outcome: str, index: int) -> str | None:
        if outcome != Outcome.DELIVERED and sees_errors:
            span = f"&since={times[index]}&until={times[index + 1]}"
            return f"{search}?kind=error&outcome={outcome}{source}{span}"
        run_id = single[outcome][index]
        return f"{all_runs}{run_id}/" if run_id else all_runs

    return find_url


def find_run_url(run_id: int) -> str:
    return reverse("ingest:run", args=[run_id])


def sees_all_errors(user: Any, filters: Filters, sources: list[SourceChoice]) -> bool:
    """Whether a search of this user finds every fetch error that the charts count."""
    if user.is_staff:
        return True
    shown = [source for source in sources if not filters.sources or source.slug in filters.sources]
    return all(source.owner_id == user.pk for source in shown)

"""A run for the eyes of a person at a terminal: its progress, and the report at its end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from ingest.models import Run
from ingest.outcomes import Outcome
from ingest.reconcile import Reconciliation
from ingest.selectors import count_outcomes

GAPS_SHOWN = 3
POLL_SECONDS = 0.25


def follow_run(
    run: Run,
    *,
    say: Callable[[str], None],
    pause: Callable[[float], object] = time.sleep,
    may_go_on: Callable[[], bool] = lambda: True,
) -> bool:
    """Shows the progress of a run until it is finished; False when `may_go_on` said no before.

    A bar on a terminal, a line every two seconds elsewhere.
    """
    terminal = shutil.get_terminal_size()
    bar = tqdm(
        total=run.planned_total,
        unit="req",
        disable=not sys.stderr.isatty(),
        # A terminal of unknown size counts as 80 by 24; tqdm would draw nothing there.
        ncols=terminal.columns,
        nrows=terminal.lines,
    )
    told_at = began_at = time.monotonic()
    has_warned = False
    with bar:
        while may_go_on():
            run.refresh_from_db()
            counts = count_outcomes(run)
            done = sum(counts.values()) - counts[Outcome.PLANNED]
            bar.set_description(str(run.get_state_display()), refresh=False)
            bar.set_postfix(_name_troubles(counts), refresh=False)
            bar.update(done - bar.n)
            if run.is_finished:
                return True
            now = time.monotonic()
            if bar.disable and now - told_at >= 2:
                told_at = now
                say(f"  {run.state}: {done:,} of {run.planned_total:,}")
            if not has_warned and run.started_at is None and now - began_at > 5:
                has_warned = True
                say("  No fetch worker has taken the run yet; it waits in the queue.")
            pause(POLL_SECONDS)
    return False


def _name_troubles(counts: Mapping[str, int]) -> dict[str, int]:
    calm = {Outcome.PLANNED, Outcome.DELIVERED}
    return {str(name): count for name, count in counts.items() if name not in calm and count}


def write_report(
    run: Run, report: Reconciliation, *, upstream_says: Mapping[str, int] | None = None
) -> Iterator[str]:
    """The reconciliation, line by line; with the upstream's own counts beside it where known."""
    yield f"Reconciliation of run {run.pk} ({run.get_state_display()})"
    second = f"{'upstream says':>16}" if upstream_says is not None else ""
    yield f"  {'outcome':<12}{'requests':>10}{second}"
    for outcome in Outcome:
        told = report.outcomes[outcome]
        seen = (upstream_says or {}).get(outcome, 0)
        if told or seen:
            yield f"  {outcome:<12}{told:>10,}{_compare(told, seen, upstream_says)}"
    total = sum(report.outcomes.values())
    theirs = f"{sum(upstream_says.values()):>16,}" if upstream_says is not None else ""
    yield f"  {'Σ':<12}{total:>10,}{theirs}"
    yield f"  planned {report.planned:,}, unknown {report.unknown:,}"
    indexed = "an unknown number" if report.indexed is None else f"{report.indexed:,}"
    yield (
        f"  {report.distinct_keys:,} distinct records delivered, {report.stored:,} stored, "
        f"{indexed} indexed"
    )
    yield from _name_gaps(report.missing)
    yield f"  verdict: {report.verdict['text']}"


def _compare(told: int, seen: int, upstream_says: Mapping[str, int] | None) -> str:
    if upstream_says is None:
        return ""
    return f"{seen:>16,}" + ("" if told == seen else "   <- differs")


def _name_gaps(missing: list[dict[str, Any]]) -> Iterator[str]:
    yield f"  {len(missing):,} named gaps:"
    by_outcome: dict[str, list[dict[str, Any]]] = {}
    for gap in missing:
        by_outcome.setdefault(gap["outcome"], []).append(gap)
    for outcome, gaps in sorted(by_outcome.items()):
        for gap in gaps[:GAPS_SHOWN]:
            yield f"    {outcome:<10} {gap['key']:>7}  {gap['reason']}"
        if len(gaps) > GAPS_SHOWN:
            yield f"    {outcome:<10}         … and {len(gaps) - GAPS_SHOWN:,} more"

"""Roll-ups as DataFrames: what the charts and the table draw.

Everything is read from the roll-ups (minutes, or hours where the slots are that wide) and from the
finished runs' own counts, never from the ledger: the cost depends on how many slots are drawn. All
times are UTC. A frame with one row per slot has all of them: counts are zero where nothing was
sent, times and rates of nothing are NaN or zero as each function says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
from django.db.models import (
    BigIntegerField,
    F,
    Func,
    Max,
    Min,
    OuterRef,
    QuerySet,
    Subquery,
    Sum,
)
from django.db.models.sql.compiler import SQLCompiler

from analytics.filters import HOUR, ORIGIN, SEND_OUTCOMES, Filters, Period
from analytics.models import HourBucket
from ingest.models import Bucket, Run, Source
from ingest.outcomes import FINAL_STATES, Outcome, RunState

_ORIGIN_SECONDS = int(ORIGIN.timestamp())
_COLUMNS = (
    "slot",
    "outcome",
    "sends",
    "records",
    "latency_ms_sum",
    "latency_ms_max",
    "first_run_id",
    "last_run_id",
)


class Slot(Func):
    """The number of the slot since ORIGIN in which a time lies."""

    output_field = BigIntegerField()

    def __init__(self, expression: Any, *, width_seconds: int) -> None:
        super().__init__(expression, width=width_seconds, origin=_ORIGIN_SECONDS)

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        template = (
            "((CAST(strftime('%%%%s', %(expressions)s) AS INTEGER) - %(origin)s) / %(width)s)"
        )
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        template = "(FLOOR((EXTRACT(EPOCH FROM %(expressions)s) - %(origin)s) / %(width)s)::bigint)"
        return self.as_sql(compiler, connection, template=template, **context)


@dataclass(frozen=True, slots=True)
class SourceChoice:
    slug: str
    name: str
    owner_id: int | None


def list_sources() -> list[SourceChoice]:
    """The sources that can be chosen: all that are not archived."""
    rows = Source.objects.filter(archived_at=None).order_by("slug")
    return [SourceChoice(*row) for row in rows.values_list("slug", "name", "owner_id")]


def read_buckets(filters: Filters, period: Period) -> pd.DataFrame:
    """One row per slot and outcome that has sends; `slot` counts from 0 at `period.since`.

    Columns: slot, outcome, sends, records, latency_ms_sum, latency_ms_max, first_run_id,
    last_run_id. At most MAX_SLOTS rows per outcome, from one query.
    """
    is_coarse = period.width_seconds % HOUR == 0
    tier: type[Bucket | HourBucket] = HourBucket if is_coarse else Bucket
    rows: QuerySet[Any] = (
        tier._default_manager.filter(started_at__gte=period.since, started_at__lt=period.until)
        # As an expression, or SQLite takes the index of the sources and reads all their minutes.
        .alias(of_source=F("source_id") + 0)
        .filter(of_source__in=_present_ids(filters))
    )
    if filters.outcomes:
        rows = rows.filter(outcome__in=filters.outcomes)
    first, last = ("first_run_id", "last_run_id") if is_coarse else ("run_id", "run_id")
    sums = (
        rows.order_by()
        .values_list(Slot(F("started_at"), width_seconds=period.width_seconds), "outcome")
        .annotate(
            Sum("sends"),
            Sum("records"),
            Sum("latency_ms_sum"),
            Max("latency_ms_max"),
            Min(first),
            Max(last),
        )
    )
    frame = pd.DataFrame.from_records(list(sums), columns=list(_COLUMNS))
    frame["slot"] -= period.first_slot
    return frame


def _present_ids(filters: Filters) -> QuerySet[Source, int]:
    sources = Source.objects.filter(archived_at=None)
    if filters.sources:
        sources = sources.filter(slug__in=filters.sources)
    return sources.values_list("pk", flat=True)


def count_outcomes(buckets: pd.DataFrame, period: Period) -> pd.DataFrame:
    """Sends per slot (rows, by their start) and outcome (columns, those that occur at all)."""
    if buckets.empty:
        return pd.DataFrame(index=_index(period))
    wide = buckets.pivot(index="slot", columns="outcome", values="sends")
    present = [outcome.value for outcome in SEND_OUTCOMES if outcome.value in wide.columns]
    return _on_every_slot(wide[present], period).fillna(0).astype("int64")


def name_single_runs(buckets: pd.DataFrame, period: Period) -> pd.DataFrame:
    """Like count_outcomes, but the id of the run where all sends are of one run; else 0."""
    if buckets.empty:
        return pd.DataFrame(index=_index(period))
    same = buckets["first_run_id"] == buckets["last_run_id"]
    runs = buckets.assign(run=buckets["first_run_id"].where(same, 0))
    wide = runs.pivot(index="slot", columns="outcome", values="run")
    return _on_every_slot(wide, period).fillna(0).astype("int64")


def measure_throughput(buckets: pd.DataFrame, period: Period, *, now: datetime) -> pd.DataFrame:
    """`sends` and `records` per second of each slot; NaN for slots that are still to come.

    The slot that lasts still is measured by the time that has passed of it.
    """
    totals = buckets.groupby("slot")[["sends", "records"]].sum()
    rates = _on_every_slot(totals, period).fillna(0).astype("float64")
    passed = [
        min((now - period.start_of(index)).total_seconds(), period.width_seconds)
        for index in range(period.count)
    ]
    seconds = pd.Series(passed, index=rates.index, dtype="float64")
    return rates.div(seconds.clip(lower=1), axis="index").where(seconds.gt(0), axis="index")


def measure_latency(buckets: pd.DataFrame, period: Period) -> pd.DataFrame:
    """`mean_ms` and `max_ms` of the sends of each slot; NaN where there are none."""
    groups = buckets.groupby("slot")
    totals = groups[["sends", "latency_ms_sum"]].sum()
    frame = pd.DataFrame(
        {
            "mean_ms": totals["latency_ms_sum"] / totals["sends"],
            "max_ms": groups["latency_ms_max"].max(),
        }
    )
    return _on_every_slot(frame, period).astype("float64")


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a whole period. `mean_ms` and `max_ms` are None when nothing was sent."""

    sends: int
    delivered: int
    records: int
    mean_ms: float | None
    max_ms: float | None
    outcomes: dict[str, int]

    @property
    def delivered_share(self) -> float | None:
        return self.delivered / self.sends if self.sends else None


def sum_up(buckets: pd.DataFrame) -> Totals:
    sends = int(buckets["sends"].sum())
    counts = {str(k): int(v) for k, v in buckets.groupby("outcome")["sends"].sum().items()}
    return Totals(
        sends=sends,
        delivered=counts.get(Outcome.DELIVERED, 0),
        records=int(buckets["records"].sum()),
        mean_ms=float(buckets["latency_ms_sum"].sum()) / sends if sends else None,
        max_ms=float(buckets["latency_ms_max"].max()) if sends else None,
        outcomes={o.value: counts[o] for o in SEND_OUTCOMES if o.value in counts},
    )


def read_completeness(filters: Filters) -> pd.DataFrame:
    """The latest finished run of each chosen source that has one, the least complete first.

    Columns: slug, name, run_id, state, planned, delivered, accepted, share, finished_at. `share` is
    (delivered + accepted) / planned, 0..1. It is exactly 1 for a complete run and for no other: the
    page that ends a walk is accepted too, but only the ledger knows which one that was.
    """
    latest = (
        Run.objects.filter(source=OuterRef("pk"), state__in=FINAL_STATES)
        .order_by("-finished_at", "-pk")
        .values("pk")[:1]
    )
    sources = Source.objects.filter(pk__in=_present_ids(filters)).annotate(latest=Subquery(latest))
    runs = Run.objects.filter(pk__in=sources.values("latest")).select_related("source")
    rows = [_describe_completeness(run) for run in runs.defer("signs", "source__configuration")]
    frame = pd.DataFrame.from_records(rows, columns=list(_COMPLETENESS))
    return frame.sort_values(["share", "slug"], ignore_index=True)


_COMPLETENESS = (
    *("slug", "name", "run_id", "state"),
    *("planned", "delivered", "accepted", "share", "finished_at"),
)


def _describe_completeness(run: Run) -> dict[str, Any]:
    accepted = sum(getattr(run, f"{outcome}_count") for outcome in _accepted_outcomes(run))
    good = run.delivered_count + accepted
    is_complete = run.state == RunState.COMPLETE
    share = good / run.planned_total if run.planned_total else 0.0
    return {
        "slug": run.source.slug,
        "name": run.source.name,
        "run_id": run.pk,
        "state": run.state,
        "planned": run.planned_total,
        "delivered": run.delivered_count,
        "accepted": accepted,
        "share": 1.0 if is_complete else min(share, 1 - 1e-9),
        "finished_at": run.finished_at,
    }


def _accepted_outcomes(run: Run) -> list[str]:
    """`retry.accept` of the configuration that the run had; read without parsing all of it."""
    retry = run.configuration.get("source", {}).get("retry") or {}
    return [value for value in retry.get("accept", ()) if value in set(SEND_OUTCOMES)]


def _index(period: Period) -> pd.DatetimeIndex:
    return pd.date_range(
        period.since, periods=period.count, freq=pd.Timedelta(seconds=period.width_seconds)
    )


def _on_every_slot(frame: pd.DataFrame, period: Period) -> pd.DataFrame:
    complete = frame.reindex(range(period.count))
    complete.index = _index(period)
    return complete

"""Reconciliation: what was planned, came, is stored and can be found; each gap by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from ingest import runs
from ingest.models import Delivery, Record, Request, Run
from ingest.outcomes import Outcome
from ingest.plans import address_of
from ingest.ports import IndexUnavailable, index_lookup
from ingest.selectors import count_outcomes

_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The report on a run. `indexed` and `not_indexed` are None while nobody can tell."""

    as_of: datetime
    planned: int
    outcomes: dict[str, int]
    unknown: int
    upstream_total: int | None
    distinct_keys: int
    duplicates: int
    stored: int
    indexed: int | None
    missing: list[dict[str, Any]]
    not_stored: list[dict[str, Any]]
    not_indexed: list[dict[str, Any]] | None
    why_ended: str
    verdict: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def reconcile_run(run: Run) -> Reconciliation:
    """Compares plan, ledger, deliveries, records and index of a run, as they are at the call."""
    as_of = timezone.now()
    outcomes = count_outcomes(run)
    unknown = count_unknown(run, outcomes)
    deliveries = Delivery.objects.filter(run=run).count()
    distinct_keys = runs.count_distinct_keys(run)
    missing = list(find_missing(run))
    not_stored = list(find_not_stored(run))
    stored = distinct_keys - len(not_stored)
    not_indexed = find_not_indexed(run)
    return Reconciliation(
        as_of=as_of,
        planned=run.planned_total,
        outcomes=outcomes,
        unknown=unknown,
        upstream_total=run.upstream_total,
        distinct_keys=distinct_keys,
        duplicates=deliveries - distinct_keys,
        stored=stored,
        indexed=None if not_indexed is None else stored - len(not_indexed),
        missing=missing,
        not_stored=not_stored,
        not_indexed=not_indexed,
        why_ended=run.why_ended,
        verdict=give_verdict(
            run,
            outcomes,
            unknown=unknown,
            missing=len(missing),
            distinct_keys=distinct_keys,
            not_stored=len(not_stored),
            not_indexed=None if not_indexed is None else len(not_indexed),
        ),
    )


def count_unknown(run: Run, outcomes: dict[str, int]) -> int:
    """Requests of which nobody can say what became of them: 0, or the books do not balance."""
    unknown = run.planned_total - sum(outcomes.values())
    return unknown + outcomes[Outcome.PLANNED] if run.is_finished else unknown


def select_missing(run: Run) -> QuerySet[Request]:
    """Every request that is neither delivered nor accepted, in plan order."""
    accepted = {Outcome.DELIVERED, *runs.public_configuration_of(run).accepted}
    rows = Request.objects.filter(run=run).exclude(outcome__in=accepted)
    return rows.exclude(role="terminal").order_by("position")


def describe_missing(run: Run, rows: Iterable[Request]) -> Iterator[dict[str, Any]]:
    """Rows of the ledger as named gaps, each with its reason."""
    configuration = runs.public_configuration_of(run)
    for row in rows:
        yield {
            "key": row.key,
            "url": address_of(configuration, row.key),
            "outcome": row.outcome,
            "reason": (row.evidence or {}).get("reason") or row.error or _("not sent yet"),
        }


def find_missing(run: Run) -> Iterator[dict[str, Any]]:
    """The named gaps of a run, in plan order."""
    return describe_missing(run, select_missing(run).iterator(chunk_size=_CHUNK))


def find_not_stored(run: Run) -> Iterator[dict[str, Any]]:
    """Keys that were delivered in the run and have no record."""
    stored = Record.objects.filter(source_id=run.source_id, key=OuterRef("record_key"))
    keys = (
        # Not `exclude(record_key__in=…)`: NOT IN is quadratic on PostgreSQL once it is large.
        Delivery.objects.filter(~Exists(stored), run=run)
        .values_list("record_key", flat=True)
        .distinct()
        .order_by("record_key")
    )
    return ({"key": key} for key in keys)


def find_not_indexed(run: Run) -> list[dict[str, Any]] | None:
    """Records of the run that a search cannot find now; None where the index cannot be asked."""
    lookup = index_lookup()
    if lookup is None:
        return None
    rows = (
        Record.objects.filter(
            source_id=run.source_id, key__in=Delivery.objects.filter(run=run).values("record_key")
        )
        .order_by("pk")
        .values_list("pk", "key")
    )
    absent: list[dict[str, Any]] = []
    try:
        for chunk in _chunks(rows.iterator(chunk_size=_CHUNK)):
            ids = lookup.find_absent([f"record-{pk}" for pk, _key in chunk])
            absent += [
                {"key": key, "id": f"record-{pk}"} for pk, key in chunk if f"record-{pk}" in ids
            ]
    except IndexUnavailable:
        return None
    return absent


def _chunks(rows: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    chunk: list[tuple[int, str]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def give_verdict(
    run: Run,
    outcomes: dict[str, int],
    *,
    unknown: int,
    missing: int,
    distinct_keys: int,
    not_stored: int,
    not_indexed: int | None,
) -> dict[str, Any]:
    """What the counts of a run mean, for programs and in words."""
    books_balance = unknown == 0 and sum(outcomes.values()) == run.planned_total
    if not books_balance:
        text = _("The books do not balance: %(count)d requests are unknown.") % {"count": unknown}
    elif not run.is_finished:
        text = _("The run is still going on; %(count)d requests are not answered yet.") % {
            "count": outcomes[Outcome.PLANNED]
        }
        if run.is_parked and run.wake_at:
            waits = {"what": run.get_waits_for_display(), "when": f"{run.wake_at:%Y-%m-%d %H:%M}"}
            text += " " + _("It waits for %(what)s, until %(when)s UTC.") % waits
    elif missing:
        text = _("%(count)d requests brought no good answer; each is named with its reason.") % {
            "count": missing
        }
    elif not_stored:
        text = _("Every request was answered, but %(count)d delivered keys have no record.") % {
            "count": not_stored
        }
    elif run.upstream_total not in (None, distinct_keys):
        text = _("The upstream declares %(total)d records; %(count)d different keys came.") % {
            "total": run.upstream_total,
            "count": distinct_keys,
        }
    else:
        text = _("Nothing was left out: every planned request was answered and stored.")
    return {
        "state": run.state,
        "complete": run.state == "complete",
        "books_balance": books_balance,
        "stored_all": not not_stored,
        "indexed_all": None if not_indexed is None else not not_indexed,
        "text": text,
    }

"""What is known of sources and runs: the reads of ingestion, for API, pages and commands."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from ingest.configuration import SourceConfiguration
from ingest.models import ErrorLog, Record, Request, Run, Source
from ingest.outcomes import Outcome
from ingest.plans import address_of
from ingest.runs import count_by_outcome, public_configuration_of

__all__ = [
    "count_outcomes",
    "describe_request",
    "describe_run",
    "describe_source",
    "present_sources",
    "public_configuration_of",
    "rate_per_second",
    "visible_errors",
    "visible_records",
]


def present_sources() -> QuerySet[Source]:
    return Source.objects.filter(archived_at=None)


def describe_source(source: Source) -> dict[str, Any]:
    """The configuration with every default; `{"set": true}` where a secret is stored."""
    return {
        **source.configuration,
        "owner": source.owner_id,
        "created_at": source.created_at,
        "updated_at": source.updated_at,
    }


def count_outcomes(run: Run) -> dict[str, int]:
    """All ten outcomes; they add up to the planned total at every moment."""
    if run.is_finished:
        return {value: getattr(run, f"{value}_count") for value in Outcome.values}
    return count_by_outcome(run)


def rate_per_second(run: Run, *, outcomes: dict[str, int] | None = None) -> float | None:
    """Answered rows per second of the time that the run was at work; None before its first send.

    `outcomes` saves a count of the ledger where the caller has it already.
    """
    if run.started_at is None:
        return None
    seconds = run.count_active_seconds(timezone.now())
    outcomes = outcomes or count_outcomes(run)
    answered = sum(outcomes.values()) - outcomes[Outcome.PLANNED]
    return round(answered / seconds, 3) if seconds > 0 else None


def describe_run(run: Run, *, outcomes: dict[str, int] | None = None) -> dict[str, Any]:
    """The run as the API shows it; `outcomes` as in `rate_per_second`."""
    outcomes = outcomes or count_outcomes(run)
    return {
        "id": run.pk,
        "source": run.source.slug,
        "state": run.state,
        "planned": run.planned_total,
        "outcomes": outcomes,
        "records": {
            "new": run.records_new,
            "changed": run.records_changed,
            "unchanged": run.records_unchanged,
        },
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "rate_per_second": rate_per_second(run, outcomes=outcomes),
    }


def describe_request(request: Request, configuration: SourceConfiguration) -> dict[str, Any]:
    """A ledger row as people and programs see it. `configuration`: public_configuration_of(run)."""
    evidence = request.evidence or {}
    return {
        "key": request.key,
        "url": address_of(configuration, request.key),
        "outcome": request.outcome,
        "attempts": request.attempts,
        "status_code": request.status_code,
        "latency_ms": request.latency_ms,
        "records": request.record_count,
        "error": evidence.get("reason") or request.error or None,
        "evidence": request.evidence,
        "finished_at": request.finished_at,
    }


def visible_errors(user: Any) -> QuerySet[ErrorLog]:
    """Staff: all. Others: fetch errors of their own sources."""
    errors = ErrorLog.objects.all()
    if user.is_staff:
        return errors
    return errors.filter(Q(source__owner=user), source__isnull=False)


def visible_records(user: Any) -> QuerySet[Record]:
    return Record.objects.filter(source__archived_at=None)

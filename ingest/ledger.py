"""The request ledger: planning rows, leasing them to slices, and writing what became of them.

The ledger is the queue. A row is due when `due_at` has come and no slice holds it; a slice's lease
is renewed by every flush in the flush's own transaction, so that a worker whose rows were taken
over can write nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.db import transaction
from django.db.models import F, Min, QuerySet
from django.utils import timezone

from ingest import bulk, records, rollups
from ingest.configuration import SourceConfiguration
from ingest.errors import LeaseLost
from ingest.fetch.answers import Answer
from ingest.fetch.backoff import DELAYING_STATUS, read_retry_after
from ingest.models import Delivery, ErrorLog, Record, Request, Run, Slice
from ingest.outcomes import FINAL_STATES, Outcome

T = TypeVar("T")

_ERROR = (
    "error_type", "outcome", "status_code", "message", "url", "request_id", "attempt",
    "occurred_at",
)  # fmt: skip
_ANSWERED = (
    "outcome", "attempts", "pass_attempts", "backoff_step", "status_code", "latency_ms",
    "record_count", "error", "evidence", "finished_at", "due_at",
)  # fmt: skip
# Beyond any deadline.
LONGEST_DELAY_SECONDS = 10 * 365 * 86_400


def plan_rows(run: Run, configuration: SourceConfiguration) -> None:
    """Writes a ledger row per planned request, all due at once. Call it inside a transaction."""
    bulk.insert_rows(
        Request,
        ("position", "key"),
        enumerate(configuration.plan.keys()),
        shared={"run_id": run.pk, "due_at": timezone.now()},
    )


def lock_run(run_id: int) -> None:
    """Makes this transaction the only one that writes several rows of the run.

    Take it before any other lock: cancelling, taking over and flushing touch the same rows in
    different orders, and would wait for each other for ever (PostgreSQL; SQLite has one writer
    anyway). Rows that refer to the run may still be inserted, and claims do not wait.
    """
    list(Run.objects.select_for_update(no_key=True).filter(pk=run_id).values_list("pk"))


def open_slice(run_id: int, *, worker: str, at_most: int) -> Slice | None:
    """A lease on the run; None where it is finished, or `at_most` slices of it live already."""
    with transaction.atomic():
        lock_run(run_id)
        if Run.objects.filter(pk=run_id, state__in=FINAL_STATES).exists():
            return None
        release_expired(run_id)
        if Slice.objects.filter(run_id=run_id).count() >= at_most:
            return None
        now = timezone.now()
        return Slice.objects.create(
            run_id=run_id, worker=worker, started_at=now, expires_at=_expiry(now)
        )


def release_expired(run_id: int) -> None:
    """Frees the rows of slices whose worker has died or stalled."""
    for dead in Slice.objects.filter(run_id=run_id, expires_at__lt=timezone.now()):
        close_slice(dead)


def close_slice(held: Slice) -> None:
    """Frees what the slice still holds and ends its lease."""
    with transaction.atomic():
        lock_run(held.run_id)
        Request.objects.filter(slice_id=held.pk).update(slice=None)
        Slice.objects.filter(pk=held.pk).delete()


def renew_slice(held: Slice) -> None:
    """Prolongs the lease. Raises LeaseLost where somebody has taken the rows over."""
    if not Slice.objects.filter(pk=held.pk).update(expires_at=_expiry(timezone.now())):
        raise LeaseLost


def _expiry(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.LEASE_SECONDS)


class Claim(NamedTuple):
    """A row that a slice holds: what sending it takes of a Request."""

    pk: int
    run_id: int
    position: int
    key: str
    attempts: int
    pass_attempts: int
    backoff_step: int


def claim_requests(held: Slice, *, limit: int) -> list[Claim]:
    """Up to `limit` due rows, now held by this slice. Raises LeaseLost."""
    with transaction.atomic():
        renew_slice(held)
        rows = (
            Request.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(run_id=held.run_id, due_at__lte=timezone.now(), slice=None)
            .order_by("due_at", "position")
        )
        due = [Claim(*row) for row in rows.values_list(*Claim._fields)[:limit]]
        bulk.update_rows(Request, (), ((row.pk,) for row in due), shared={"slice_id": held.pk})
    return due


def next_due_at(run_id: int) -> datetime | None:
    """When the earliest row that nobody holds is due; None where no row waits."""
    earliest: datetime | None = Request.objects.filter(
        run_id=run_id, due_at__isnull=False, slice=None
    ).aggregate(at=Min("due_at"))["at"]
    return earliest


def refresh_statistics() -> None:
    """Call it as a run's rows grow, outside a transaction: the books are joined at any time."""
    bulk.refresh_statistics(Request, Delivery, Record)


def _say_nothing() -> Any:
    return None


def flush_answers(
    held: Slice, answers: Sequence[Answer], *, source_id: int, share: Callable[[], T] = _say_nothing
) -> T:
    """Writes classified answers: ledger, deliveries, records, errors and roll-ups, all or nothing.

    Every part is an idempotent upsert. `share` is called in the same transaction, the run being
    locked; gives its result. Raises LeaseLost, having written nothing, where the rows were taken
    over by another slice.
    """
    chunk_rows = settings.FLUSH_CHUNK_ROWS
    now = timezone.now()
    # Built before the transaction: SQLite has one writer, and this is half of the work.
    frame = records.join_frames([records.frame_of(part) for part in _parts(answers, chunk_rows)])
    failures = [_error(answer) for answer in answers if _is_failure(answer)]
    again = [answer.request_id for answer in answers if answer.attempts > 1]
    with transaction.atomic():
        # Also makes the counts right: of two slices that bring the same new key, one adds it.
        lock_run(held.run_id)
        renew_slice(held)
        bulk.update_rows(
            Request, _ANSWERED, map(_row, answers), shared={"slice_id": None}, chunk_rows=chunk_rows
        )
        records.replace_deliveries(
            frame, run_id=held.run_id, answered_before=again, chunk_rows=chunk_rows
        )
        counts = records.upsert_records(frame, source_id=source_id, now=now, chunk_rows=chunk_rows)
        bulk.insert_rows(
            ErrorLog,
            _ERROR,
            failures,
            shared={"source_id": source_id, "run_id": held.run_id},
            chunk_rows=chunk_rows,
            ignore_conflicts=True,
        )
        rollups.add_to_buckets(answers, source_id=source_id)
        Run.objects.filter(pk=held.run_id).update(
            records_new=F("records_new") + counts.new,
            records_changed=F("records_changed") + counts.changed,
            records_unchanged=F("records_unchanged") + counts.unchanged,
            failures_in_a_row=0,
        )
        return share()


def _parts(answers: Sequence[Answer], size: int) -> Iterator[Sequence[Answer]]:
    return (answers[start : start + size] for start in range(0, len(answers), size))


def _row(answer: Answer) -> tuple[Any, ...]:
    """The values of `_ANSWERED`, and the primary key."""
    verdict = answer.verdict
    return (
        verdict.outcome.value,
        answer.attempts,
        answer.pass_attempts,
        answer.backoff_step,
        answer.status_code,
        answer.latency_ms,
        len(verdict.records),
        verdict.error[:64],
        None if verdict.evidence is None else json.dumps(verdict.evidence),
        answer.answered_at,
        answer.due_at,
        answer.request_id,
    )


def _is_failure(answer: Answer) -> bool:
    return answer.verdict.outcome != Outcome.DELIVERED


def _error(answer: Answer) -> tuple[Any, ...]:
    """The values of `_ERROR`."""
    verdict = answer.verdict
    return (
        verdict.error_type,
        verdict.outcome.value,
        answer.status_code,
        str((verdict.evidence or {}).get("reason", verdict.error)),
        answer.url,
        answer.request_id,
        answer.attempts,
        answer.answered_at,
    )


def settle_unsent(run: Run, *, outcome: Outcome, error: str, reason: str) -> None:
    """Ends the rows that were never answered, and sends nothing else again in this run.

    Rows with an outcome of their own keep it. Call it inside a transaction.
    """
    rows = Request.objects.filter(run=run)
    rows.filter(outcome=Outcome.PLANNED).update(
        outcome=outcome,
        error=error,
        evidence={"reason": reason},
        finished_at=timezone.now(),
        due_at=None,
        slice=None,
    )
    rows.filter(due_at__isnull=False).update(due_at=None, slice=None)


def open_pass(
    run: Run,
    *,
    outcomes: frozenset[Outcome],
    until: datetime | None = None,
    rest: timedelta = timedelta(),
) -> int:
    """Makes the rows of these outcomes due for one more send; gives how many there are.

    With `until`, a delay that a row's last answer named is waited out first, and a row whose delay
    ends later than that is left out. One that failed or was refused is left alone for `rest` after
    its answer. Call it inside a transaction.
    """
    rows = Request.objects.filter(run=run, outcome__in=outcomes)
    count = rows.update(due_at=timezone.now(), pass_attempts=0, backoff_step=0, slice=None)
    if until is None:
        return count
    tired = rows.filter(
        outcome__in=(Outcome.FAILED, Outcome.REFUSED), finished_at__gt=timezone.now() - rest
    )
    tired.update(due_at=F("finished_at") + rest)
    due = {pk: at if at < until else None for pk, at in _find_named_delays(rows)}
    bulk.update_rows(Request, ("due_at",), ((at, pk) for pk, at in due.items()))
    return count - list(due.values()).count(None)


def _find_named_delays(rows: QuerySet[Request]) -> Iterator[tuple[int, datetime]]:
    """(row, when the delay that its last answer named is over) of those that are not over yet."""
    now = timezone.now()
    named = rows.filter(
        status_code__in=DELAYING_STATUS, evidence__has_key="retry_after"
    ).values_list("pk", "finished_at", "evidence")
    for pk, answered_at, evidence in named.iterator(chunk_size=2_000):
        if answered_at is None or evidence is None:
            continue
        seconds = read_retry_after(evidence["retry_after"], now=answered_at)
        # Compared as seconds: a delay may end beyond the last date.
        if seconds is not None and seconds > (now - answered_at).total_seconds():
            yield pk, answered_at + timedelta(seconds=min(seconds, LONGEST_DELAY_SECONDS))

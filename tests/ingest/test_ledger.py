"""Leases and flushes: who may write what, and that all of it is written or nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone

from ingest import ledger
from ingest.errors import LeaseLost
from ingest.fetch.answers import Answer, Verdict
from ingest.fetch.reading import ParsedRecord
from ingest.ledger import Claim
from ingest.models import Bucket, Delivery, ErrorLog, Record, Request, Run, Slice
from ingest.outcomes import Outcome, RunState
from ingest.runs import create_run
from tests.ingest.factories import SourceFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> Run:
    source = SourceFactory()
    return create_run(source, user=source.owner)


def open_slice(run: Run) -> Slice:
    held = ledger.open_slice(run.pk, worker="test", at_most=1)
    assert held is not None
    return held


def record(key: str, position: int = 0, **fields: Any) -> ParsedRecord:
    return ParsedRecord(
        **{
            "position": position,
            "key": key,
            "title": key,
            "body": "",
            "data": json.dumps({"id": key}),
            "weight": None,
            "occurred_at": None,
            "content_hash": "1" * 32,
            **fields,
        }
    )


def answer(row: Request | Claim, outcome: Outcome, *records: ParsedRecord, **fields: Any) -> Answer:
    return Answer(
        **{
            "request_id": row.pk,
            "run_id": row.run_id,
            "position": row.position,
            "key": row.key,
            "url": "https://api.example.org/",
            "attempts": row.attempts + 1,
            "pass_attempts": row.pass_attempts + 1,
            "backoff_step": 0,
            "verdict": Verdict(
                outcome=outcome,
                error="" if outcome == Outcome.DELIVERED else "http_500",
                error_type="HTTP Error",
                evidence=None if outcome == Outcome.DELIVERED else {"reason": "500 Oh"},
                records=list(records),
            ),
            "status_code": 200 if outcome == Outcome.DELIVERED else 500,
            "latency_ms": 5.0,
            "answered_at": timezone.now(),
            "due_at": None,
            **fields,
        }
    )


def test_planning_writes_a_row_per_request_before_anything_is_sent(run: Run):
    rows = Request.objects.filter(run=run)
    assert [row.key for row in rows] == ["1", "2", "3"]
    assert {row.outcome for row in rows} == {Outcome.PLANNED}
    assert run.planned_total == 3


def test_a_row_is_claimed_once_and_is_free_again_when_the_slice_closes(run: Run):
    held = open_slice(run)
    assert [row.key for row in ledger.claim_requests(held, limit=2)] == ["1", "2"]
    assert [row.key for row in ledger.claim_requests(held, limit=2)] == ["3"]
    ledger.close_slice(held)
    assert len(ledger.claim_requests(open_slice(run), limit=9)) == 3


def test_rows_that_are_not_due_are_not_claimed(run: Run):
    later = timezone.now() + timedelta(minutes=5)
    Request.objects.filter(run=run, key="1").update(due_at=later)
    Request.objects.filter(run=run, key="2").update(due_at=None)
    held = open_slice(run)
    assert [row.key for row in ledger.claim_requests(held, limit=9)] == ["3"]
    assert ledger.next_due_at(run.pk) == later


def test_no_more_slices_live_than_allowed(run: Run):
    open_slice(run)
    assert ledger.open_slice(run.pk, worker="other", at_most=1) is None
    assert ledger.open_slice(run.pk, worker="other", at_most=2) is not None


def test_an_expired_slice_is_taken_over_and_its_worker_can_write_nothing(run: Run):
    paused = open_slice(run)
    rows = ledger.claim_requests(paused, limit=9)
    Slice.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    heir = open_slice(run)
    assert len(ledger.claim_requests(heir, limit=9)) == 3
    with pytest.raises(LeaseLost):
        ledger.flush_answers(
            paused, [answer(rows[0], Outcome.DELIVERED, record("1"))], source_id=run.source_id
        )
    assert Record.objects.count() == Delivery.objects.count() == Bucket.objects.count() == 0
    with pytest.raises(LeaseLost):
        ledger.claim_requests(paused, limit=1)


def test_a_flush_writes_ledger_records_deliveries_errors_and_roll_ups_together(run: Run):
    held = open_slice(run)
    rows = ledger.claim_requests(held, limit=9)
    ledger.flush_answers(
        held,
        [
            answer(rows[0], Outcome.DELIVERED, record("a"), record("b", 1)),
            answer(rows[1], Outcome.FAILED),
        ],
        source_id=run.source_id,
    )
    first, second, third = Request.objects.filter(run=run)
    assert (first.outcome, first.record_count, first.attempts) == (Outcome.DELIVERED, 2, 1)
    assert (second.outcome, second.evidence) == (Outcome.FAILED, {"reason": "500 Oh"})
    assert (third.outcome, third.slice_id) == (Outcome.PLANNED, held.pk)
    assert sorted(Record.objects.values_list("key", flat=True)) == ["a", "b"]
    assert Delivery.objects.filter(request=first).count() == 2
    error = ErrorLog.objects.get()
    assert (error.request, error.attempt, error.message) == (second, 1, "500 Oh")
    sends = dict(Bucket.objects.values_list("outcome", "sends"))
    assert sends == {"delivered": 1, "failed": 1}
    run.refresh_from_db()
    assert run.records_new == 2


def test_a_flush_that_fails_leaves_no_part_behind(run: Run):
    held = open_slice(run)
    rows = ledger.claim_requests(held, limit=9)
    broken = record("a", data="not JSON")
    with pytest.raises(DatabaseError), transaction.atomic():
        ledger.flush_answers(
            held, [answer(rows[0], Outcome.DELIVERED, broken)], source_id=run.source_id
        )
    assert Request.objects.get(pk=rows[0].pk).outcome == Outcome.PLANNED
    assert Delivery.objects.count() == 0


def test_a_later_answer_replaces_all_that_an_earlier_one_delivered(run: Run):
    held = open_slice(run)
    row = ledger.claim_requests(held, limit=1)[0]
    good = [record("a"), record("b", 1)]
    ledger.flush_answers(held, [answer(row, Outcome.MALFORMED, *good)], source_id=run.source_id)
    again = row._replace(attempts=Request.objects.get(pk=row.pk).attempts)
    ledger.flush_answers(
        held, [answer(again, Outcome.DELIVERED, record("c"))], source_id=run.source_id
    )
    assert list(Delivery.objects.values_list("record_key", flat=True)) == ["c"]
    assert Record.objects.count() == 3


def test_a_key_twice_in_one_answer_is_two_deliveries_and_one_record(run: Run):
    held = open_slice(run)
    row = ledger.claim_requests(held, limit=1)[0]
    twice = [record("a", title="old"), record("a", 1, title="new")]
    ledger.flush_answers(held, [answer(row, Outcome.DELIVERED, *twice)], source_id=run.source_id)
    assert Delivery.objects.count() == 2
    assert Record.objects.get().title == "new"


def test_roll_ups_add_up_over_flushes(run: Run):
    held = open_slice(run)
    rows = ledger.claim_requests(held, limit=2)
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    for seconds, row in enumerate(rows):
        ledger.flush_answers(
            held,
            [
                answer(
                    row,
                    Outcome.DELIVERED,
                    record(row.key),
                    answered_at=noon + timedelta(seconds=seconds),
                    latency_ms=10.0 * (seconds + 1),
                )
            ],
            source_id=run.source_id,
        )
    bucket = Bucket.objects.get()
    assert (bucket.started_at, bucket.sends, bucket.records) == (noon, 2, 2)
    assert (bucket.latency_ms_sum, bucket.latency_ms_max) == (30.0, 20.0)


def test_the_database_refuses_a_finished_run_whose_books_do_not_balance(run: Run):
    with pytest.raises(IntegrityError, match="run_books_balance"), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(
            state=RunState.COMPLETE, finished_at=timezone.now(), delivered_count=2
        )
    with pytest.raises(IntegrityError, match="run_books_balance"), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(
            state=RunState.INCOMPLETE,
            finished_at=timezone.now(),
            delivered_count=2,
            planned_count=1,
        )


def test_the_database_refuses_a_planned_row_with_an_answer(run: Run):
    with (
        pytest.raises(IntegrityError, match="request_planned_means_never_answered"),
        transaction.atomic(),
    ):
        Request.objects.filter(run=run).update(finished_at=timezone.now())

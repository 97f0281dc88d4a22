"""The report: what is missing, not stored, not indexed, counted twice; each by name."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ingest import ports
from ingest.models import Delivery, Record, Request, Run
from ingest.outcomes import Outcome, RunState
from ingest.ports import IndexUnavailable
from ingest.reconcile import reconcile_run
from ingest.reports import write_report
from tests.ingest.factories import RecordFactory, SourceFactory, configure, finish_run

pytestmark = pytest.mark.django_db


class Index:
    """An index that misses what it is told to miss."""

    def __init__(self, *absent: str, is_down: bool = False) -> None:
        self.absent = set(absent)
        self.is_down = is_down

    def find_absent(self, document_ids: Iterable[str]) -> set[str]:
        if self.is_down:
            raise IndexUnavailable
        return self.absent & set(document_ids)

    def count_pending(self) -> int:
        return 0


@pytest.fixture
def use_index(monkeypatch):
    return lambda index: monkeypatch.setattr(ports, "_registered", index)


def deliver(run: Run, row: Request, *keys: str) -> None:
    for position, key in enumerate(keys):
        Delivery.objects.create(
            run=run, request=row, position=position, record_key=key, content_hash=""
        )


def test_each_gap_is_named_with_its_reason_in_the_order_of_the_plan():
    run = finish_run(SourceFactory(), ["delivered", "empty", "delivered", "missing"])
    Request.objects.filter(position=1).update(evidence={"reason": "the answer holds no record"})
    Request.objects.filter(position=3).update(evidence={"reason": "404 Not Found"})
    report = reconcile_run(run)
    assert [(gap["key"], gap["outcome"], gap["reason"]) for gap in report.missing] == [
        ("2", "empty", "the answer holds no record"),
        ("4", "missing", "404 Not Found"),
    ]
    assert report.missing[0]["url"] == "https://api.example.org/cities/2"
    assert (report.planned, report.unknown) == (4, 0)
    assert not report.verdict["complete"]


def test_what_was_delivered_but_is_not_stored_is_named(use_index):
    use_index(None)
    run = finish_run(SourceFactory(), ["delivered"])
    RecordFactory(source=run.source, key="a")
    RecordFactory(key="b")  # of another source
    deliver(run, Request.objects.get(), "a", "b", "b")
    report = reconcile_run(run)
    assert (report.distinct_keys, report.duplicates, report.stored) == (2, 1, 1)
    assert report.not_stored == [{"key": "b"}]
    assert report.indexed is None
    assert report.not_indexed is None


def test_what_is_stored_but_cannot_be_found_is_named(use_index):
    run = finish_run(SourceFactory(), ["delivered"])
    lost = RecordFactory(source=run.source, key="a")
    RecordFactory(source=run.source, key="b")
    deliver(run, Request.objects.get(), "a", "b")
    use_index(Index(f"record-{lost.pk}"))
    report = reconcile_run(run)
    assert (report.stored, report.indexed) == (2, 1)
    assert report.not_indexed == [{"key": "a", "id": f"record-{lost.pk}"}]
    assert report.verdict["indexed_all"] is False


def test_an_index_that_is_down_makes_the_number_unknown_and_not_zero(use_index):
    run = finish_run(SourceFactory(), ["delivered"])
    RecordFactory(source=run.source, key="a")
    deliver(run, Request.objects.get(), "a")
    use_index(Index(is_down=True))
    assert reconcile_run(run).indexed is None
    assert reconcile_run(run).verdict["indexed_all"] is None


def test_accepted_outcomes_and_terminal_pages_are_not_missing():
    source = SourceFactory(configuration=configure("s", retry={"accept": ["missing"]}))
    run = finish_run(source, ["delivered", "missing", "empty"], state=RunState.COMPLETE)
    Request.objects.filter(position=2).update(role="terminal")
    assert reconcile_run(run).missing == []


def test_rows_that_vanish_from_the_ledger_are_unknown():
    run = finish_run(SourceFactory(), ["delivered", "delivered"])
    run.state = RunState.FETCHING
    run.finished_at = None
    run.save()
    Request.objects.filter(position=1).delete()
    report = reconcile_run(run)
    assert report.unknown == 1
    assert not report.verdict["books_balance"]


def test_the_report_for_the_terminal_shows_both_sides_and_where_they_differ():
    run = finish_run(SourceFactory(), ["delivered", "empty", "empty", "empty", "empty"])
    lines = list(write_report(run, reconcile_run(run), upstream_says={"delivered": 1, "empty": 3}))
    text = "\n".join(lines)
    assert "<- differs" in next(line for line in lines if line.startswith("  empty "))
    assert "<- differs" not in next(line for line in lines if line.startswith("  delivered "))
    assert "4 named gaps" in text
    assert "… and 1 more" in text


def test_the_counts_of_a_finished_run_come_from_its_own_columns(django_assert_max_num_queries):
    run = finish_run(SourceFactory(), ["delivered"] * 3)
    Record.objects.all().delete()
    with django_assert_max_num_queries(8):
        report = reconcile_run(run)
    assert report.outcomes[Outcome.DELIVERED] == 3

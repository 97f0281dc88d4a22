"""Every write path reaches the index through the outbox, and nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from ingest import ports
from ingest.models import ErrorLog, Outbox, Record, Source
from search import documents, engines, indexer, rebuild, services, tasks
from search.documents import Document
from search.engines.base import Applied, Engine
from search.engines.tantivy import TantivyEngine
from search.errors import SearchUnavailable
from search.lock import hold_drainer_lock
from search.rebuild import RebuildRefused, rebuild_index

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]


def indexed() -> set[str]:
    # PostgreSQL's numbers go on from test to test.
    everything = [f"{kind}-{pk}" for kind in ("record", "error") for pk in range(1, 10_000)]
    return engines.get_engine().open().find_present(everything)


def found(q: str, staff: Any) -> list[str]:
    from search.query import read_query

    answer = services.search(read_query({"q": [q], "size": ["100"]}), user=staff)
    return [hit.title for hit in answer.results]


# --- write paths ------------------------------------------------------------------------------


def test_save_bulk_create_update_and_delete_reach_the_index(
    store: Store, drain: Drain, source: Source, staff: Any
) -> None:
    kept, changed, gone = store("kept"), store("changed"), store("gone")
    now = timezone.now()
    Record.objects.bulk_create(
        [
            Record(
                source=source,
                key=f"bulk-{n}",
                title=f"bulk {n}",
                data={},
                content_hash="x",
                occurred_at=now,
                stored_at=now,
                updated_at=now,
            )
            for n in range(3)
        ]
    )
    assert drain() == 6
    assert len(found("bulk", staff)) == 3

    Record.objects.filter(pk=changed.pk).update(title="renamed")
    gone.delete()
    kept.title = "still kept"
    kept.save()
    bulk = list(Record.objects.filter(key__startswith="bulk").order_by("pk"))
    for record in bulk:
        record.title = f"bulk updated {record.key}"
    Record.objects.bulk_update(bulk[:1], ["title"])
    Record.objects.filter(pk=bulk[1].pk).delete()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ingest_record SET title = 'by hand' WHERE id = %s", [bulk[2].pk])
    assert drain() == 6
    assert sorted(found("", staff)) == sorted(
        ["still kept", "renamed", "by hand", f"bulk updated {bulk[0].key}"]
    )
    assert not Outbox.objects.exists()


def test_an_upsert_of_the_same_values_queues_nothing(store: Store, drain: Drain) -> None:
    record = store("same")
    drain()
    Record.objects.filter(pk=record.pk).update(title="same")
    assert indexer.read_coverage().pending == 0


def test_a_cascade_removes_what_it_takes_along(store: Store, drain: Drain, source: Source) -> None:
    store("one")
    ErrorLog.objects.create(
        error_type="Timeout", message="m", source=source, occurred_at=timezone.now()
    )
    assert drain() == 2
    source.delete()
    assert drain() == 2
    assert indexed() == set()


def test_a_rollback_reaches_nothing(store: Store, drain: Drain) -> None:
    with transaction.atomic():
        store("never")
        transaction.set_rollback(True)
    assert drain() == 0
    assert engines.get_engine().open().count() == 0


def test_errors_become_documents(drain: Drain, source: Source, staff: Any) -> None:
    ErrorLog.objects.create(
        error_type="ClientConnectorError",
        message="Cannot connect to host",
        url="https://example.org/cities/7?key=***",
        status_code=None,
        outcome="failed",
        source=source,
        occurred_at=timezone.now(),
    )
    drain()
    assert found("cannot connect", staff) == ["ClientConnectorError"]
    assert found("kind:error cities", staff) == ["ClientConnectorError"]


def test_what_cannot_be_put_into_json_or_words_is_still_indexed(
    store: Store, drain: Drain, staff: Any
) -> None:
    store("🎉\u200b", body="\u0301" * 50 + "x" * 70_000, data=[1, {"a": None}], weight=-1e308)
    assert drain() == 1
    assert found("🎉", staff) == ["🎉\u200b"]


# --- the drainer ------------------------------------------------------------------------------


def test_a_change_during_indexing_keeps_its_place(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    record = store("first")
    indexer.ensure_index()
    apply = TantivyEngine.apply

    def change_meanwhile(self: TantivyEngine, **batch: Any) -> Applied:
        applied = apply(self, **batch)
        Record.objects.filter(pk=record.pk).update(title="second")
        return applied

    monkeypatch.setattr(TantivyEngine, "apply", change_meanwhile)
    assert indexer.drain_batch() == 1
    monkeypatch.undo()
    assert Outbox.objects.get().object_id == record.pk
    assert drain() == 1
    assert found("", staff) == ["second"]


def test_a_drainer_that_was_overtaken_reads_again(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    """The lock is lost in a pause: another drainer indexes a newer state, then ours goes on."""
    record = store("old")
    indexer.ensure_index()
    apply = TantivyEngine.apply

    def pause(self: TantivyEngine, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Any:
        read = list(upserts)
        monkeypatch.undo()
        Record.objects.filter(pk=record.pk).update(title="new")
        drain()
        return apply(self, upserts=read, deletes=deletes)

    monkeypatch.setattr(TantivyEngine, "apply", pause)
    indexer.drain_batch()
    assert found("", staff) == ["old"]
    assert indexer.read_coverage().pending == 1
    drain()
    assert found("", staff) == ["new"]


def test_an_engine_that_is_down_loses_nothing(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain()
    store("waits")

    def fail(self: TantivyEngine, **batch: Any) -> Applied:
        raise SearchUnavailable("disk full")

    monkeypatch.setattr(TantivyEngine, "apply", fail)
    with pytest.raises(SearchUnavailable):
        drain()
    assert indexer.read_coverage().pending == 1
    monkeypatch.undo()
    assert drain() == 1
    assert indexed() != set()


def test_a_poison_document_is_parked_with_its_reason_and_the_others_go_on(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    records = [store(f"title {n}") for n in range(5)]
    poison = records[2]

    def build(**fields: Any) -> Document:
        if fields["pk"] == poison.pk:
            raise ZeroDivisionError("poison")
        return original(**fields)

    original = documents.build_document
    monkeypatch.setattr(documents, "build_document", build)
    drain()
    coverage = indexer.read_coverage()
    assert (coverage.pending, coverage.parked) == (0, 1)
    row = Outbox.objects.get()
    assert (row.object_id, row.reason) == (poison.pk, "ZeroDivisionError: poison")
    assert len(found("title", staff)) == 4
    # A change of the row gives it another chance.
    monkeypatch.undo()
    Record.objects.filter(pk=poison.pk).update(title="title healed")
    assert drain() == 1
    assert indexer.read_coverage().parked == 0
    assert "title healed" in found("title", staff)


def test_a_document_that_the_engine_refuses_is_parked(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("fine")
    bad = store("bad")
    from search.engines import tantivy

    original = tantivy._store

    def refuse(document: Document) -> Any:
        if document.title == "bad":
            raise ValueError("a number out of range")
        return original(document)

    monkeypatch.setattr(tantivy, "_store", refuse)
    drain()
    row = Outbox.objects.get()
    assert (row.object_id, row.reason) == (bad.pk, "a number out of range")
    assert row.parked_at


def test_batches_are_bounded(store: Store, drain: Drain) -> None:
    for n in range(7):
        store(f"n {n}")
    indexer.ensure_index()
    assert [indexer.drain_batch(limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert len(indexed()) == 7


def test_coverage_tells_since_when_it_is_behind(store: Store, drain: Drain) -> None:
    before = timezone.now()
    assert indexer.read_coverage().as_of >= before
    store("late")
    Outbox.objects.update(queued_at=before - timedelta(hours=1))
    coverage = indexer.read_coverage()
    assert (coverage.pending, coverage.as_of) == (1, before - timedelta(hours=1))


def test_a_lost_index_is_filled_again_by_itself(
    store: Store, drain: Drain, index_dir: Path, staff: Any
) -> None:
    import shutil

    store("survivor")
    drain()
    shutil.rmtree(index_dir)
    with pytest.raises(SearchUnavailable):
        found("survivor", staff)
    assert not services.engine_status()["ok"]
    assert drain() == 1
    assert found("survivor", staff) == ["survivor"]
    assert services.engine_status()["ok"]


# --- the task and its lock --------------------------------------------------------------------


@pytest.mark.usefixtures("index_dir")
def test_a_slice_drains_and_goes_on(store: Store) -> None:
    store("by the task")
    assert tasks.drain_slice(seconds=0.3)
    assert len(indexed()) == 1


@pytest.mark.usefixtures("index_dir")
def test_a_second_drainer_returns_at_once(store: Store) -> None:
    store("waits")
    with hold_drainer_lock() as lock:
        assert lock is not None
        assert not tasks.drain_slice(seconds=5)
    assert indexer.read_coverage().pending == 1


@pytest.mark.usefixtures("index_dir")
def test_a_slice_makes_way_for_a_rebuild(db: None) -> None:
    import redis
    from django.conf import settings

    client = redis.Redis.from_url(settings.REDIS_BUDGET_URL)
    client.set(f"search:drainer:{settings.SEARCH_INDEX_DIR}:wanted", 1, ex=10)
    assert not tasks.drain_slice(seconds=5)


@pytest.mark.usefixtures("index_dir")
def test_a_slice_survives_an_engine_that_is_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("waits")
    monkeypatch.setattr(tasks, "ENGINE_DOWN_SECONDS", 0.05)

    def fail() -> int:
        raise SearchUnavailable("down")

    monkeypatch.setattr(indexer, "drain_batch", fail)
    assert tasks.drain_slice(seconds=0.2)
    monkeypatch.undo()
    assert tasks.drain_slice(seconds=0.3)
    assert indexer.read_coverage().pending == 0


# --- what others ask --------------------------------------------------------------------------


def test_ingestion_can_ask_what_is_missing(store: Store, drain: Drain) -> None:
    first = store("here")
    drain()
    second = store("not yet")
    lookup = ports.index_lookup()
    assert lookup is not None
    assert lookup.count_pending() == 1
    wanted = [f"record-{first.pk}", f"record-{second.pk}", "record-999"]
    assert lookup.find_absent(wanted) == {f"record-{second.pk}", "record-999"}


@pytest.mark.usefixtures("index_dir")
def test_ingestion_is_told_when_the_index_cannot_be_asked(db: None) -> None:
    lookup = ports.index_lookup()
    assert lookup is not None
    with pytest.raises(ports.IndexUnavailable):
        lookup.find_absent(["record-1"])


def test_waiting_ends_with_what_is_left(store: Store, drain: Drain) -> None:
    assert services.wait_until_indexed(0) == 0
    store("waits")
    assert services.wait_until_indexed(0.15) == 1
    drain()
    assert services.wait_until_indexed(5) == 0


# --- rebuild ----------------------------------------------------------------------------------


def test_a_rebuild_holds_exactly_what_the_database_holds(
    store: Store, drain: Drain, engine: Engine, source: Source
) -> None:
    kept = store("kept")
    drain()
    Outbox.objects.all().delete()
    # The index has gone astray: a document too many, and one too few.
    engine.apply(upserts=[], deletes=[f"record-{kept.pk}"])
    ErrorLog.objects.create(error_type="E", message="m", occurred_at=timezone.now())
    steps: list[tuple[int, int]] = []
    report = rebuild_index(report_progress=lambda done, total: steps.append((done, total)))
    assert (report.documents, report.refused) == (2, 0)
    assert steps[-1] == (2, 2)
    assert len(indexed()) == 2


def test_writes_during_a_rebuild_are_replayed(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    first, second = store("first"), store("second")
    drain()
    read = documents.read_documents

    def write_meanwhile(kind: str, pks: Iterable[int]) -> Any:
        found_now = list(read(kind, pks))
        if kind == "record":
            Record.objects.filter(pk=first.pk).update(title="first changed")
            Record.objects.filter(pk=second.pk).delete()
            store("third")
            # Nobody may drain into the old index now.
            assert not tasks.drain_slice(seconds=0.1)
        return found_now

    monkeypatch.setattr(rebuild, "read_documents", write_meanwhile)
    monkeypatch.setattr(rebuild, "_walk", _walk_once(rebuild._walk))
    rebuild_index()
    assert indexer.read_coverage().pending == 3
    drain()
    assert sorted(found("", staff)) == ["first changed", "third"]


def _walk_once(walk: Any) -> Any:
    return lambda table: iter([batch for batch, _ in zip(walk(table), range(1), strict=False)])


def test_a_rebuild_with_a_difference_is_refused(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    store("one")
    drain()
    store("two")
    from search.engines.tantivy import TantivyRebuild

    monkeypatch.setattr(TantivyRebuild, "count", lambda self: 1)
    with pytest.raises(RebuildRefused, match="holds 1"):
        rebuild_index()
    assert found("", staff) == ["one"]


def test_a_rebuild_tries_parked_documents_again(store: Store, drain: Drain) -> None:
    store("healed")
    Outbox.objects.update(parked_at=timezone.now(), reason="was poison")
    rebuild_index()
    drain()
    assert indexer.read_coverage().parked == 0
    assert len(indexed()) == 1


def test_the_command_reports_what_it_did(
    store: Store, drain: Drain, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.core.management import call_command

    from ingest.models import Job

    store("one")
    call_command("rebuild_index")
    assert "1 documents" in capsys.readouterr().out
    job = Job.objects.get()
    assert (job.kind, job.state, job.done, job.total) == ("rebuild", "finished", 1, 1)

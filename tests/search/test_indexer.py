"""Every write path reaches the index through the outbox, and nothing is dropped in silence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from ingest import ports
from ingest.models import ErrorLog, Outbox, Record, Source
from search import documents, engines, indexer, services, tasks
from search.documents import Document
from search.engines import tantivy_index
from search.engines.base import Applied
from search.engines.tantivy import TantivyEngine
from search.errors import SearchUnavailable
from search.lock import hold_drainer_lock
from search.query import read_query
from tests.search.storm import make_record

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]


def indexed() -> set[str]:
    # PostgreSQL's numbers go on from test to test.
    everything = [f"{kind}-{pk}" for kind in ("record", "error") for pk in range(1, 10_000)]
    return engines.get_engine().open().find_present(everything)


def found(q: str, staff: Any) -> list[str]:
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


def test_a_source_that_is_renamed_takes_its_documents_along(
    store: Store, drain: Drain, source: Source, staff: Any
) -> None:
    store("one")
    ErrorLog.objects.create(
        error_type="Timeout", message="m", source=source, occurred_at=timezone.now()
    )
    drain()
    Source.objects.filter(pk=source.pk).update(slug="towns")
    assert drain() == 2
    assert sorted(found("source:towns", staff)) == ["Timeout", "one"]
    Source.objects.filter(pk=source.pk).update(name="another name")
    assert drain() == 0


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


@pytest.mark.parametrize(
    "number", ["1e400", 400 * "1" + ".0", 150 * "1" + "e260", "12345678901234567890"]
)
def test_a_number_that_is_too_large_can_still_be_answered_as_json(
    store: Store, drain: Drain, staff: Any, number: str
) -> None:
    record = store("large")
    with connection.cursor() as cursor:
        update = "UPDATE ingest_record SET data = %s WHERE id = %s"
        cursor.execute(update, [f'{{"n": {number}}}', record.pk])
    drain()
    [hit] = services.search(read_query({"q": ["large"]}), user=staff).results
    json.dumps(hit.as_dict(), allow_nan=False)


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


@pytest.mark.django_db(transaction=True)
def test_what_breaks_a_batch_is_parked_also_while_others_write(
    store: Store, source: Source, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "READ_ROWS", 1)
    # pytest keeps what is logged, and with an exception all that it holds.
    monkeypatch.setattr(indexer.logger, "exception", lambda *_: None)
    poison = [store(f"title {n}") for n in range(4)][1]
    indexer.ensure_index()

    def write() -> None:
        Source.objects.filter(pk=source.pk).update(name="changed meanwhile")
        connection.close()

    def check(upserts: Iterable[Document]) -> Iterator[Document]:
        for document in upserts:
            if document.id == f"record-{poison.pk}":
                writer = threading.Thread(target=write)
                writer.start()
                writer.join()
                raise ZeroDivisionError("poison")
            yield document

    def apply(self: TantivyEngine, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Any:
        return original(self, upserts=check(upserts), deletes=deletes)

    original = TantivyEngine.apply
    monkeypatch.setattr(TantivyEngine, "apply", apply)
    drain()
    coverage = indexer.read_coverage()
    assert (coverage.pending, coverage.parked) == (0, 1)
    assert Outbox.objects.get().reason == "ZeroDivisionError: poison"


def test_a_document_that_the_engine_refuses_is_parked(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("fine")
    bad = store("bad")
    original = tantivy_index._store

    def refuse(document: Document) -> Any:
        if document.title == "bad":
            raise ValueError("a number out of range")
        return original(document)

    monkeypatch.setattr(tantivy_index, "_store", refuse)
    drain()
    row = Outbox.objects.get()
    assert (row.object_id, row.reason) == (bad.pk, "a number out of range")
    assert row.parked_at


def test_parked_documents_are_named_and_tried_again_on_demand(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    from portal.accounts.models import User

    bad = store("bad")
    drain()
    original = tantivy_index._store

    def refuse(document: Document) -> Any:
        raise ValueError("a number out of range")

    monkeypatch.setattr(tantivy_index, "_store", refuse)
    bad.title = "worse"
    bad.save()
    drain()
    # The index has it, but not as it is now.
    lookup = ports.index_lookup()
    assert lookup is not None
    assert lookup.find_absent([f"record-{bad.pk}"]) == {f"record-{bad.pk}"}

    client.force_login(User.objects.create_superuser("root@example.org"))
    page = client.get("/admin/ingest/outbox/", {"parked_at__isempty": "0"})
    assert "a number out of range" in page.content.decode()
    monkeypatch.setattr(tantivy_index, "_store", original)
    chosen = {"action": "try_again", "_selected_action": [Outbox.objects.get().pk]}
    answer = client.post("/admin/ingest/outbox/", chosen, follow=True)
    assert "1 document is tried again." in answer.content.decode()
    assert drain() == 1
    assert lookup.find_absent([f"record-{bad.pk}"]) == set()


def test_batches_are_bounded(store: Store, drain: Drain) -> None:
    for n in range(7):
        store(f"n {n}")
    indexer.ensure_index()
    assert [indexer.drain_batch(limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert len(indexed()) == 7


def test_of_a_storm_one_document_at_a_time_is_in_memory(
    source: Source, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record.objects.bulk_create(make_record(source, number) for number in range(300))
    build, keep = documents.build_document, tantivy_index._store
    steps: list[int] = []

    def count_built(**fields: Any) -> Document:
        steps.append(1)
        return build(**fields)

    def count_stored(document: Document) -> Any:
        steps.append(-1)
        return keep(document)

    monkeypatch.setattr(documents, "build_document", count_built)
    monkeypatch.setattr(tantivy_index, "_store", count_stored)
    assert drain() == 300
    assert len(steps) == 600
    assert max(accumulate(steps)) == 1


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

    with redis.Redis.from_url(settings.REDIS_BUDGET_URL) as client:
        client.set(f"search:drainer:{settings.SEARCH_INDEX_DIR}:wanted", 1, ex=60)
    assert not tasks.drain_slice(seconds=5)


@pytest.mark.usefixtures("index_dir")
def test_rows_are_not_queued_for_an_engine_that_can_make_no_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("row")
    Outbox.objects.all().delete()

    def fail(self: TantivyEngine) -> Any:
        raise SearchUnavailable("disk full")

    monkeypatch.setattr(tasks, "ENGINE_DOWN_SECONDS", 0.05)
    monkeypatch.setattr(TantivyEngine, "start_rebuild", fail)
    assert tasks.drain_slice(seconds=0.2)
    assert not Outbox.objects.exists()
    monkeypatch.undo()
    assert tasks.drain_slice(seconds=0.3)
    assert len(indexed()) == 1


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

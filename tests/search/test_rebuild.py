"""A rebuild while rows change: nothing is lost, and nothing wrong gets to answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import DataError, connection, transaction
from django.utils import timezone

from ingest.models import ErrorLog, Job, Outbox, Record, Source
from search import documents, engines, indexer, lock, rebuild, services, tasks
from search.documents import Document
from search.engines import tantivy_index
from search.engines.base import Applied, Engine
from search.engines.tantivy import TantivyEngine, TantivyRebuild
from search.errors import SearchUnavailable
from search.lock import HeldLock, hold_drainer_lock, hold_rebuild_lock
from search.query import read_query
from search.rebuild import RebuildRefused, rebuild_index
from tests.search.storm import find_differences, make_record, rebuild_amid_storm

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]


def found(q: str, user: Any) -> list[str]:
    answer = services.search(read_query({"q": [q], "size": ["100"]}), user=user)
    return [hit.title for hit in answer.results]


def indexed() -> int:
    return engines.get_engine().open().count()


def test_a_rebuild_holds_exactly_what_the_database_holds(
    store: Store, drain: Drain, engine: Engine
) -> None:
    kept = store("kept")
    drain()
    Outbox.objects.all().delete()
    # The index has gone astray: a document too many, and one too few.
    engine.apply(upserts=[], deletes=[f"record-{kept.pk}"])
    ErrorLog.objects.create(error_type="E", message="m", occurred_at=timezone.now())
    steps: list[tuple[int, int]] = []
    report = rebuild_index(report_progress=lambda done, total: steps.append((done, total)))
    assert (report.documents, report.refused, report.compared) == (2, 0, 2)
    assert steps[-1] == (2, 2)
    assert not find_differences(engine)


def test_changes_during_a_rebuild_are_searchable_before_its_end_and_after(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    first, second = store("first"), store("second")
    drain()
    fill, catch_up = rebuild._Builder.fill, rebuild._Builder.catch_up
    before_the_switch: list[str] = []

    def change_after_filling(self: Any) -> None:
        fill(self)
        Record.objects.filter(pk=first.pk).update(title="first changed")
        Record.objects.filter(pk=second.pk).delete()
        store("third")
        # Nobody else may drain: it would be in the old index alone.
        assert not tasks.drain_slice(seconds=0.1)

    def look_after_catching_up(self: Any) -> None:
        catch_up(self)
        before_the_switch.extend(found("", staff))

    monkeypatch.setattr(rebuild._Builder, "fill", change_after_filling)
    monkeypatch.setattr(rebuild._Builder, "catch_up", look_after_catching_up)
    rebuild_index()
    assert sorted(before_the_switch) == ["first changed", "third"]
    assert indexer.read_coverage().pending == 0
    assert not find_differences(engines.get_engine())


@pytest.mark.django_db(transaction=True)
def test_a_rebuild_amid_hundreds_of_writes_and_deletes_a_second_loses_none(
    source: Source, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "FILL_ROWS", 500)
    Record.objects.bulk_create(make_record(source, number) for number in range(2_000))
    report, after_the_switch = rebuild_amid_storm(source, rounds=2)
    assert report.compared > 1_000
    assert after_the_switch > 2
    indexer.drain_everything()
    assert not find_differences(engine)


def lose(document: Document) -> None:
    return None


def bend(document: Document) -> Document:
    return document._replace(body="not what the row says")


def misplace(document: Document) -> Document:
    return document._replace(id="record-999999")


@pytest.mark.parametrize("spoil", [lose, bend, misplace])
def test_a_single_difference_stops_the_switch(
    store: Store,
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
    staff: Any,
    index_dir: Path,
    spoil: Callable[[Document], Document | None],
) -> None:
    for number in range(20):
        store(f"row {number}")
    drain()
    apply = TantivyRebuild.apply

    def spoil_one(self: Any, *, upserts: Iterable[Document], deletes: Any = ()) -> Applied:
        given = [spoil(each) if each.title == "row 13" else each for each in upserts]
        return apply(self, upserts=[each for each in given if each], deletes=deletes)

    monkeypatch.setattr(TantivyRebuild, "apply", spoil_one)
    with pytest.raises(CommandError, match="the old index goes on"):
        call_command("rebuild_index")
    assert len(found("row", staff)) == 20
    assert Job.objects.get().state == "failed"
    assert len([path for path in index_dir.iterdir() if path.is_dir()]) == 1


def test_one_document_too_many_stops_the_switch(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("row")
    drain()
    fill = rebuild._Builder.fill

    def add_a_ghost(self: Any) -> None:
        fill(self)
        (document,) = documents.read_documents("record", [Record.objects.get().pk])
        self._rebuild.apply(upserts=[document._replace(id="record-999999")])

    monkeypatch.setattr(rebuild._Builder, "fill", add_a_ghost)
    with pytest.raises(RebuildRefused, match=r"holds 1 rows .* index 2 documents"):
        rebuild_index()


def test_what_the_fresh_index_refuses_is_parked_and_does_not_stop_it(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("fine")
    bad = store("bad")
    drain()
    original = tantivy_index._store

    def refuse(document: Document) -> Any:
        if document.title == "bad":
            raise ValueError("a number out of range")
        return original(document)

    monkeypatch.setattr(tantivy_index, "_store", refuse)
    assert rebuild_index().refused == 1
    row = Outbox.objects.get()
    assert (row.object_id, row.reason) == (bad.pk, "a number out of range")


# JSON that the database takes, and that Python does not read or cannot write.
UNFIT = [5_000 * "9", '"\\ud800"']


@pytest.mark.parametrize("data", UNFIT)
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_row_of_which_no_document_can_be_made_is_parked_and_does_not_stop_it(
    store: Store, drain: Drain, index_dir: Path, is_missing: bool, data: str
) -> None:
    rows = [store(f"row {number}") for number in range(5)]
    drain()
    update = "UPDATE ingest_record SET data = %s WHERE id = %s"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and "\\u" in data:
            with pytest.raises(DataError), transaction.atomic():
                cursor.execute(update, [data, rows[2].pk])
            return
        cursor.execute(update, [data, rows[2].pk])
    if is_missing:
        # The index that answers takes no part, so that the fresh one alone meets the row.
        shutil.rmtree(index_dir)
    report = rebuild_index()
    assert (report.documents, report.refused, report.compared) == (4, 1, 4)
    parked = Outbox.objects.get()
    assert (parked.object_id, parked.parked_at is None) == (rows[2].pk, False)
    assert parked.reason


def test_a_sample_does_not_search_the_gaps_between_keys(
    source: Source, django_assert_max_num_queries: Any
) -> None:
    Record.objects.bulk_create(make_record(source, number) for number in range(2_500))
    far = Record.objects.order_by("-pk")[0]
    Record.objects.filter(pk=far.pk).update(id=2**40)
    with django_assert_max_num_queries(5):
        parts = list(rebuild._sample(Record, 2_000))
    assert [len(set(part)) for part in parts] == [1_000, 1_000]


def test_a_rebuild_tries_parked_documents_again(store: Store, drain: Drain) -> None:
    store("healed")
    Outbox.objects.update(parked_at=timezone.now(), reason="was poison")
    rebuild_index()
    assert indexer.read_coverage().parked == 0
    assert indexed() == 1


def test_an_index_that_takes_no_changes_does_not_keep_a_rebuild_from_healing_it(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch, staff: Any
) -> None:
    store("before")
    drain()
    store("meanwhile")

    def fail(self: TantivyEngine, **batch: Any) -> Applied:
        raise SearchUnavailable("changed by hand")

    monkeypatch.setattr(TantivyEngine, "apply", fail)
    rebuild_index()
    monkeypatch.undo()
    coverage = indexer.read_coverage()
    assert (coverage.pending, coverage.parked) == (1, 0)
    assert sorted(found("", staff)) == ["before", "meanwhile"]
    drain()
    assert not find_differences(engines.get_engine())


def test_a_rebuild_that_loses_its_lock_does_not_switch(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("row")
    drain()
    catch_up = rebuild._Builder.catch_up

    def be_paused(self: Any) -> None:
        self._lock._lock.release()
        with hold_drainer_lock() as other:
            assert other
            catch_up(self)

    monkeypatch.setattr(rebuild._Builder, "catch_up", be_paused)
    with pytest.raises(RebuildRefused, match="lock was lost"):
        rebuild_index()


def test_a_drainer_in_the_midst_of_a_batch_does_not_keep_its_row_from_the_new_index(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is lost in a pause before the switch: another drainer writes the old index."""
    row = store("old")
    drain()
    publish, remove = TantivyRebuild.publish, indexer._remove
    held_up: list[Any] = []

    def be_overtaken(self: TantivyRebuild) -> None:
        Record.objects.filter(pk=row.pk).update(title="new")
        monkeypatch.setattr(indexer, "_remove", held_up.append)
        assert indexer.drain_batch() == 1
        publish(self)

    monkeypatch.setattr(TantivyRebuild, "publish", be_overtaken)
    monkeypatch.setattr(HeldLock, "renew", lambda self: not held_up)
    rebuild_index()
    monkeypatch.undo()
    for changes in held_up:
        remove(changes)
    drain()
    assert not find_differences(engines.get_engine())


def be_away() -> Any:
    raise redis.ConnectionError


def test_a_rebuild_without_redis_does_not_forget_what_workers_write_when_it_is_back(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = store("old")
    drain()
    compare_numbers = rebuild._Builder.compare_numbers

    def come_back(self: Any) -> int:
        compared = compare_numbers(self)
        monkeypatch.undo()
        Record.objects.filter(pk=row.pk).update(title="new")
        assert tasks.drain_slice(seconds=0.1)
        return compared

    monkeypatch.setattr(lock, "_connect", be_away)
    monkeypatch.setattr(rebuild._Builder, "compare_numbers", come_back)
    rebuild_index()
    drain()
    assert not find_differences(engines.get_engine())


def test_a_rebuild_without_redis_queues_nothing(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("row")
    drain()

    monkeypatch.setattr(lock, "_connect", be_away)
    rebuild_index()
    assert not Outbox.objects.exists()


# --- jobs -------------------------------------------------------------------------------------


def test_the_command_reports_what_it_did(
    store: Store, drain: Drain, capsys: pytest.CaptureFixture[str]
) -> None:
    store("one")
    call_command("rebuild_index")
    assert "1 documents" in capsys.readouterr().out
    job = Job.objects.get()
    assert (job.kind, job.state, job.done, job.total) == ("rebuild", "finished", 1, 1)
    assert job.started_at
    assert job.finished_at


def test_a_second_rebuild_is_refused_and_told_of_the_first(
    drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "RIVAL_WAIT_SECONDS", 0)
    first = Job.objects.create(kind="rebuild", state="running", done=34, total=100)
    with hold_rebuild_lock() as lock:
        assert lock
        with pytest.raises(CommandError, match=f"job {first.pk}, 34% done"):
            call_command("rebuild_index")
    assert list(Job.objects.order_by("pk").values_list("state", flat=True)) == ["running", "failed"]


def test_a_rebuild_that_was_killed_is_ended_and_cleaned_up_by_the_drainer(
    store: Store, drain: Drain, index_dir: Path
) -> None:
    store("row")
    drain()
    killed = Job.objects.create(kind="rebuild", state="running", started_at=timezone.now())
    left_behind = tantivy_index.FreshFolder(index_dir).path
    with hold_rebuild_lock():
        rebuild.find_waiting_jobs()  # as long as it lives, nobody touches it
        assert left_behind.exists()
    rebuild.find_waiting_jobs()
    killed.refresh_from_db()
    assert (killed.state, killed.message) == (
        "failed",
        "Its process died. The old index goes on answering.",
    )
    assert not left_behind.exists()
    assert indexed() == 1


def test_a_rebuild_that_somebody_asked_for_is_done_once(
    store: Store, drain: Drain, owner: Any
) -> None:
    job = rebuild.request_rebuild(user=owner)
    assert rebuild.find_waiting_jobs() == []  # its message is under way
    Job.objects.update(created_at=timezone.now() - timedelta(minutes=1))
    assert rebuild.find_waiting_jobs() == [job.pk]
    assert rebuild.work_on_job(job.pk)
    assert rebuild.work_on_job(job.pk) is None
    job.refresh_from_db()
    assert (job.state, job.user) == ("finished", owner)


# --- another version --------------------------------------------------------------------------


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to become the next version of the portal."""

    def bump() -> None:
        monkeypatch.setattr(tantivy_index, "DOCUMENT_VERSION", documents.DOCUMENT_VERSION + 1)

    return bump


def test_an_index_of_an_earlier_version_goes_on_until_the_rebuild(
    store: Store, drain: Drain, staff: Any, index_dir: Path, next_version: Callable[[], None]
) -> None:
    store("old")
    drain()
    before = (index_dir / "current").read_text()
    next_version()
    assert found("old", staff) == ["old"]
    store("new")
    assert drain() == 1
    assert sorted(found("", staff)) == ["new", "old"]
    status = services.engine_status()
    assert status["ok"]
    assert "rebuild_index" in status["hint"]
    assert (index_dir / "current").read_text() == before

    rebuild_index()
    assert (index_dir / "current").read_text() != before
    assert services.engine_status()["hint"] == ""
    assert sorted(found("", staff)) == ["new", "old"]


def test_an_older_version_leaves_the_index_of_a_newer_one_alone(
    store: Store, drain: Drain, next_version: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(tantivy_index, "DOCUMENT_VERSION", documents.DOCUMENT_VERSION + 1)
        store("by the newer one")
        drain()
    store("by the older one")
    assert not tasks.drain_slice(seconds=0.2)
    assert indexer.read_coverage().pending == 1
    assert indexed() == 1


def test_an_index_that_this_version_cannot_read_is_filled_anew(
    store: Store,
    drain: Drain,
    staff: Any,
    next_version: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store("row")
    drain()
    next_version()
    monkeypatch.setattr(tantivy_index, "_read_own_schema", lambda: ["another"])
    with pytest.raises(SearchUnavailable):
        found("row", staff)
    monkeypatch.setattr(tantivy_index, "_read_schema", lambda folder: ["another"])
    drain()
    assert found("row", staff) == ["row"]

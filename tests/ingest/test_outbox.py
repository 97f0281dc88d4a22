"""Every write path of a searchable row leaves a note in the outbox; a rollback takes it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.utils import timezone

from ingest.models import ErrorLog, Outbox, Record, Source
from ingest.outbox import install_triggers
from tests.ingest.factories import NOON, RecordFactory, ServerErrorFactory, SourceFactory

pytestmark = pytest.mark.django_db


def noted() -> set[tuple[str, int]]:
    return set(Outbox.objects.values_list("kind", "object_id"))


@pytest.fixture
def record() -> Record:
    record: Record = RecordFactory()
    Outbox.objects.all().delete()
    return record


def _raw_update(record: Record) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ingest_record SET title = 'x' WHERE id = %s", [record.pk])


def _save(record: Record) -> None:
    record.title = "x"
    record.save()


@pytest.mark.parametrize(
    "change",
    [
        _save,
        _raw_update,
        lambda record: Record.objects.filter(pk=record.pk).update(body="x"),
        lambda record: Record.objects.filter(pk=record.pk).update(data={"id": 2}),
        lambda record: Record.objects.filter(pk=record.pk).update(weight=3.0),
        lambda record: Record.objects.bulk_update([Record(pk=record.pk, title="x")], ["title"]),
        lambda record: record.delete(),
        lambda record: Record.objects.filter(pk=record.pk).delete(),
        lambda record: Source.objects.filter(pk=record.source_id).delete(),
    ],
)
def test_each_write_path_is_noted(record: Record, change: Callable[[Record], object]):
    pk = record.pk
    change(record)
    assert noted() == {("record", pk)}


def test_creating_rows_in_bulk_and_by_upsert_is_noted(record: Record):
    fields = {"data": {}, "occurred_at": NOON, "stored_at": NOON, "updated_at": NOON}
    Record.objects.bulk_create(
        [
            Record(source=record.source, key=key, content_hash="", title="x", **fields)
            for key in (record.key, "other")
        ],
        update_conflicts=True,
        unique_fields=["source", "key"],
        update_fields=["title"],
    )
    assert noted() == {("record", pk) for pk in Record.objects.values_list("pk", flat=True)}


def test_errors_are_noted_too():
    error = ServerErrorFactory()
    assert noted() == {("error", error.pk)}
    Outbox.objects.all().delete()
    ErrorLog.objects.update(message="x")
    assert noted() == {("error", error.pk)}


def test_what_does_not_matter_to_search_is_not_noted(record: Record):
    Record.objects.update(updated_at=timezone.now(), content_hash="f" * 32)
    Record.objects.update(title=record.title)
    assert noted() == set()


def test_a_rollback_takes_its_note_back(record: Record):
    with transaction.atomic():
        _save(record)
        transaction.set_rollback(True)
    assert noted() == set()


def test_a_second_change_makes_another_version_and_unparks(record: Record):
    _save(record)
    first = Outbox.objects.get()
    Outbox.objects.update(parked_at=timezone.now(), attempts=5, reason="poison")
    Record.objects.update(title="y")
    second = Outbox.objects.get()
    assert second.version != first.version
    assert (second.parked_at, second.attempts, second.reason) == (None, 0, "")


def test_triggers_can_be_installed_again_and_again(record: Record):
    install_triggers()
    install_triggers()
    _save(record)
    assert noted() == {("record", record.pk)}


def test_the_time_of_the_note_is_an_aware_time_of_now():
    SourceFactory()
    RecordFactory()
    age = timezone.now() - Outbox.objects.latest("pk").queued_at
    assert abs(age.total_seconds()) < 30

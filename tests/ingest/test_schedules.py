"""Schedules of sources: the rows that the beat reads, and what happens when one comes round."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.urls import reverse
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from ingest import runs, schedules, services, tasks
from ingest.errors import ConfigurationInvalid
from ingest.models import Run, RunEvent, Source
from ingest.outcomes import RunState
from tests.ingest.factories import UserFactory

pytestmark = pytest.mark.django_db


def make_source(schedule: str | None, slug: str = "things") -> Source:
    return services.create_source(
        owner=UserFactory(),
        data={
            "slug": slug,
            "request": {"url": "https://api.example.org/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 3},
            "schedule": schedule,
        },
    )


def rows() -> list[PeriodicTask]:
    return list(PeriodicTask.objects.filter(task=schedules.TASK).order_by("pk"))


def test_creating_patching_and_archiving_a_source_keeps_its_row_in_step():
    source = make_source("0 3 * * *")
    [row] = rows()
    assert (row.crontab.hour, json.loads(row.args)) == ("3", [source.pk])
    services.update_source(source=source, patch={"schedule": "30 4 * * 1"})
    [row] = rows()
    assert (row.crontab.hour, row.crontab.minute, row.crontab.day_of_week) == ("4", "30", "1")
    services.update_source(source=source, patch={"schedule": None})
    assert rows() == []
    services.update_source(source=source, patch={"schedule": "0 3 * * *"})
    assert len(rows()) == 1
    services.archive_source(source=source)
    assert rows() == []


def test_the_beat_hears_of_a_change_and_not_of_a_patch_that_changes_nothing():
    source = make_source("0 3 * * *")
    before = PeriodicTasks.last_change()
    services.update_source(source=source, patch={"name": "Other"})
    assert PeriodicTasks.last_change() == before
    services.update_source(source=source, patch={"schedule": "0 4 * * *"})
    assert PeriodicTasks.last_change() > before


def test_a_source_that_is_refused_leaves_no_schedule_behind():
    make_source("0 3 * * *")
    with pytest.raises(ConfigurationInvalid) as caught:
        make_source("0 4 * * *")
    assert list(caught.value.fields) == ["slug"]
    assert len(rows()) == 1


def test_a_text_that_is_no_cron_is_refused_by_its_path():
    with pytest.raises(ConfigurationInvalid) as caught:
        make_source("every day")
    assert "five fields" in caught.value.fields["schedule"][0]
    assert rows() == []


def test_what_got_out_of_step_is_healed_and_a_pause_is_kept():
    kept, lost = make_source("0 3 * * *"), make_source("0 4 * * *", "others")
    PeriodicTask.objects.filter(args=json.dumps([kept.pk])).update(enabled=False)
    PeriodicTask.objects.filter(args=json.dumps([lost.pk])).delete()
    PeriodicTask.objects.create(
        name="runs of source 999", task=schedules.TASK, crontab=rows()[0].crontab, args="[999]"
    )
    schedules.keep_all_schedules()
    assert [(json.loads(row.args), row.enabled) for row in rows()] == [
        ([kept.pk], False),
        ([lost.pk], True),
    ]


def test_a_schedule_that_comes_round_starts_a_run_of_the_owner():
    source = make_source("0 3 * * *")
    tasks.start_scheduled_run(source.pk)
    run = Run.objects.get(source=source)
    assert (run.state, run.started_by) == (RunState.PLANNED, source.owner)
    assert "schedule" in run.events.latest("seq").message


def test_while_a_run_is_active_the_schedule_starts_no_second_one_and_says_so():
    source = make_source("0 3 * * *")
    run = runs.create_run(source, user=source.owner)
    for _ in range(3):
        tasks.start_scheduled_run(source.pk)
    assert Run.objects.count() == 1
    events = list(RunEvent.objects.filter(run=run))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert "no second one" in events[-1].message


def test_a_message_for_a_source_that_has_gone_or_has_no_schedule_any_more_does_nothing():
    source = make_source(None)
    tasks.start_scheduled_run(source.pk)
    tasks.start_scheduled_run(999_999)
    assert not Run.objects.exists()


def test_the_next_due_time_stands_on_the_page_unless_it_is_paused(client: Any):
    source = make_source("0 3 * * *")
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert schedules.next_due_at(source, now=now) == datetime(2026, 3, 2, 3, tzinfo=UTC)
    client.force_login(source.owner)
    page = client.get(reverse("ingest:source", args=[source.slug])).content.decode()
    assert "0 3 * * *" in page
    PeriodicTask.objects.update(enabled=False)
    assert schedules.next_due_at(source, now=now) is None
    page = client.get(reverse("ingest:source", args=[source.slug])).content.decode()
    assert "paused" in page

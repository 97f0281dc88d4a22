"""The Celery application: what it reads, where messages go, what happens without a broker."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery
from django.conf import settings
from kombu.exceptions import OperationalError

import portal
from portal import heartbeat
from portal.celery import SignsOfLife, app


def test_the_project_package_exports_the_application():
    assert portal.celery_app is app
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
    assert app.conf.accept_content == ["json"]
    assert str(app.conf.timezone) == settings.TIME_ZONE
    assert app.conf.broker_connection_retry_on_startup is True


def test_every_use_of_redis_is_in_a_database_of_its_own():
    found: Any = settings
    places = [
        app.conf.broker_url,
        app.conf.result_backend,
        found.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"][0],
        found.CACHES["default"]["LOCATION"],
        found.REDIS_BUDGET_URL,
    ]

    assert [place[-1] for place in places] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("ingest.tasks.run_slice", "fetch"),
        ("search.tasks.drain_outbox", "index"),
        ("ingest.tasks.scan_due", "maintenance"),
        ("some.other.task", "maintenance"),
    ],
)
def test_a_message_goes_to_the_queue_of_its_work(task, queue):
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_a_worker_that_is_told_nothing_serves_every_queue():
    assert set(app.amqp.queues.consume_from) == {"fetch", "index", "maintenance"}


def test_the_beat_asks_for_tasks_that_exist():
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["expire_seconds"] <= entry["schedule"]


def test_the_schedule_file_lies_in_the_data_folder():
    assert str(app.conf.beat_schedule_filename).startswith(str(settings.DATA_DIR))


def test_a_broker_that_is_down_is_told_at_once(tmp_path):
    lonely = Celery("lonely", broker=f"redis+socket://{tmp_path}/gone.sock?virtual_host=0")
    lonely.config_from_object(settings, namespace="CELERY")
    lonely.conf.update(broker_url=f"redis+socket://{tmp_path}/gone.sock?virtual_host=0")

    started = time.monotonic()
    with pytest.raises(OperationalError):
        lonely.send_task("ingest.tasks.scan_due")

    assert time.monotonic() - started < 3


class _Timer:
    """Calls at once what it is to call repeatedly."""

    cancelled = False

    def call_repeatedly(self, seconds, function, arguments):
        function(*arguments)
        return self

    def cancel(self):
        self.cancelled = True


class _Consumer:
    hostname = "worker@here"

    def __init__(self):
        self.timer = _Timer()
        self.steps = []


def test_a_worker_shows_that_it_lives_and_looks_for_work_when_it_is_connected(monkeypatch):
    sent = []
    app.loader.import_default_modules()
    for name in ("ingest.tasks.scan_due", "search.tasks.drain_outbox"):
        monkeypatch.setattr(app.tasks[name], "apply_async", lambda *a, n=name, **k: sent.append(n))
    consumer: Any = _Consumer()
    step = SignsOfLife(consumer)

    step.start(consumer)
    assert heartbeat.served_queues() == {"fetch": 1, "index": 1, "maintenance": 1}
    assert sent == ["ingest.tasks.scan_due", "search.tasks.drain_outbox"]

    step.stop(consumer)
    assert heartbeat.served_queues() == {}
    assert consumer.timer.cancelled


def test_a_broker_that_goes_away_as_a_worker_starts_does_not_end_it(monkeypatch):
    def fail(*args: Any, **options: Any) -> None:
        raise OperationalError("gone")

    app.loader.import_default_modules()
    for name in ("ingest.tasks.scan_due", "search.tasks.drain_outbox"):
        monkeypatch.setattr(app.tasks[name], "apply_async", fail)
    consumer: Any = _Consumer()
    step = SignsOfLife(consumer)
    step.start(consumer)
    step.stop(consumer)

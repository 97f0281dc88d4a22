"""Limits and named delays of whole runs, as the upstream sees them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import redis
from aiohttp import web
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from ingest import hosts, slices, tasks
from ingest.configuration import origin_of
from ingest.fetch.loop import _Leave
from ingest.models import Bucket, HostUse, QuotaUse, Request, Run, Slice
from ingest.outcomes import RunState
from ingest.reconcile import reconcile_run
from tests.ingest.test_pipeline import always_good, drive, good, make_source, start
from tests.ingest.upstream import scripted_upstream

pytestmark = pytest.mark.django_db(transaction=True)


def work_until_waiting(run: Run) -> Run:
    while (step := slices.run_slice(run.pk)).is_due:
        pass
    assert step.wake_at is not None
    run.refresh_from_db()
    return run


def wake(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(wake_at=timezone.now())


def quota_of(requests: int, **limits: Any) -> dict[str, Any]:
    return {"quota": {"requests": requests, "per": "month"}, "concurrency": 3, **limits}


def begin_next_period() -> None:
    """What was sent until now was sent in an earlier one."""
    QuotaUse.objects.all().delete()
    Bucket.objects.update(started_at=F("started_at") - timedelta(days=40))


def test_hosts_that_no_limit_reaches_back_to_are_forgotten():
    now = timezone.now()
    for name, days in (("https://old.example:443", 63), ("https://new.example:443", 31)):
        HostUse.objects.create(origin=name, used_until=now - timedelta(days=days))
        for period in hosts.find_periods((now - timedelta(days=days)).timestamp()).values():
            QuotaUse.objects.create(origin=name, period=period[0], granted=1)
    tasks.tidy_up()
    assert HostUse.objects.get().origin == "https://new.example:443"
    left = QuotaUse.objects.values_list("origin", flat=True)
    assert len(left) == 3
    assert set(left) == {"https://new.example:443"}


def test_a_quota_counts_what_a_run_without_one_sends_meanwhile():
    with scripted_upstream(always_good) as upstream:
        with_quota = make_source(upstream.url, slug="one", stop=12, limits=quota_of(7))
        run = work_until_waiting(start(with_quota))
        QuotaUse.objects.update(granted=2)  # as if the blocks of the other five had been lost
        assert hosts.allot_sends(hosts.name_origin(origin_of(upstream.url)), "month", 7) == 0
        assert run.state == RunState.WAITING


def test_a_used_up_quota_parks_the_rest_until_the_next_period_and_the_run_says_so():
    with scripted_upstream(always_good) as upstream:
        source = make_source(upstream.url, stop=12, limits=quota_of(7, deadline_seconds=60))
        run = work_until_waiting(start(source))
        assert len(upstream.seen) == 7
        assert (run.state, run.waits_for) == (RunState.WAITING, "quota")
        _, _, period_ends_at = hosts.find_periods(time.time())["month"]
        assert run.wake_at is not None
        assert run.deadline_at is not None
        assert run.started_at is not None
        assert abs(run.wake_at.timestamp() - period_ends_at) < 3
        # The deadline stands still meanwhile.
        left = run.deadline_at - run.wake_at
        assert timedelta(seconds=30) < left <= timedelta(seconds=60)
        messages = " ".join(run.events.values_list("message", flat=True))
        assert "The quota of 7 requests per month is used up" in messages
        assert "It waits for the quota's next period" in reconcile_run(run).verdict["text"]
        assert not Slice.objects.exists()

        begin_next_period()
        wake(run)
        run = drive(run)
    assert run.state == RunState.COMPLETE
    assert len(upstream.seen) == 12


def test_a_quota_counts_repeats_and_redirects_and_survives_the_loss_of_redis():
    sends: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        sends[request.path] += 1
        if request.path == "/1" and sends["/1"] == 1:
            return web.Response(status=500)
        if request.path == "/2":
            return web.Response(status=301, headers={"Location": "/3"})
        return good(request)

    with scripted_upstream(answer) as upstream:
        limits = quota_of(6, per_second=20)
        run = work_until_waiting(start(make_source(upstream.url, stop=20, limits=limits)))
        assert len(upstream.seen) == 6
        with redis.Redis.from_url(settings.REDIS_BUDGET_URL) as client:
            client.flushdb()
        wake(run)
        work_until_waiting(run)
        assert len(upstream.seen) == 6


def test_a_quota_that_is_set_later_counts_what_was_sent_before():
    with scripted_upstream(always_good) as upstream:
        drive(start(make_source(upstream.url, stop=6)))
        limited = make_source(upstream.url, slug="limited", stop=6, limits=quota_of(8))
        work_until_waiting(start(limited))
        assert len(upstream.seen) == 8


def test_a_slot_that_a_slow_connection_missed_does_not_count_for_the_quota(monkeypatch):
    monkeypatch.setattr(_Leave, "is_late", True)  # whenever a connection was opened
    with scripted_upstream(always_good) as upstream:
        run = start(make_source(upstream.url, stop=20, limits=quota_of(7)))
        assert work_until_waiting(run).waits_for == "quota"
        assert len(upstream.seen) == 7


def test_a_send_whose_connection_came_late_does_not_wait_out_a_long_delay(monkeypatch):
    opened: list[_Leave] = []

    def is_late(self: _Leave) -> bool:
        opened.append(self)
        return True

    async def answer(request: web.Request) -> web.Response:
        while len(opened) < 2:  # until another send has opened its connection, and waits
            await asyncio.sleep(0.01)
        return web.Response(status=429, headers={"Retry-After": "3600"})

    monkeypatch.setattr(_Leave, "is_late", property(is_late))
    monkeypatch.setattr("ingest.fetch.pace.HELD_AFTER", 2)  # one answer that names a delay
    with scripted_upstream(answer) as upstream:
        limits = {"per_second": 0.5, "concurrency": 2, "deadline_seconds": 86_400}
        retry = {"cap_seconds": 3_600}
        run = start(make_source(upstream.url, stop=5, limits=limits, retry=retry))
        assert work_until_waiting(run).waits_for == "hold"
        assert len(upstream.seen) == 1
        assert not Slice.objects.exists()


def test_each_connection_is_looked_at_also_in_a_run_without_limits_of_its_own(monkeypatch):
    checks = 0

    def look(self: _Leave) -> bool:
        nonlocal checks
        checks += 1
        return False

    monkeypatch.setattr(_Leave, "is_late", property(look))
    with scripted_upstream(always_good) as upstream:
        drive(start(make_source(upstream.url, stop=5)))
    assert checks == 5


def test_a_rate_of_a_hundredth_holds_no_worker():
    with scripted_upstream(always_good) as upstream:
        run = start(make_source(upstream.url, limits={"per_second": 0.01}))
        run = work_until_waiting(run)
        assert len(upstream.seen) == 1
        assert (run.state, run.waits_for) == (RunState.WAITING, "rate")
        assert not Slice.objects.exists()
        assert not Request.objects.exclude(slice=None).exists()


def obsolete_date(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%A, %d-%b-%y %H:%M:%S} GMT"


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


# (status, Retry-After) → is it sent again before the deadline, by our own backoff?
DELAYS = {
    "1": (429, "9999999999", False),
    "2": (503, "9999999999", False),
    "3": (429, "9" * 400, False),
    "4": (503, http_date(3600), False),
    "5": (429, obsolete_date(3600), False),
    "6": (429, "-1", True),
    "7": (503, "soon", True),
    "8": (429, "1.5", True),
    "9": (503, http_date(-3600), True),
    "10": (408, "9999999999", True),
    "11": (425, "9999999999", True),
    "12": (500, "9999999999", True),
    "13": (429, "", True),
}


def test_a_delay_that_can_be_read_is_honoured_and_any_other_is_absent():
    sends: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        key = request.path.strip("/")
        sends[key] += 1
        if key not in DELAYS or sends[key] > 1:
            return good(request)
        status, value, _ = DELAYS[key]
        return web.Response(status=status, headers={"Retry-After": value})

    with scripted_upstream(answer) as upstream:
        limits = {"deadline_seconds": 60, "concurrency": 1, "per_second": 100}
        run = drive(start(make_source(upstream.url, stop=40, limits=limits)))
    assert {key for key, (*_, again) in DELAYS.items() if sends[key] == 2} == {
        key for key, (*_, again) in DELAYS.items() if again
    }
    left = dict(
        Request.objects.filter(run=run).exclude(outcome="delivered").values_list("key", "outcome")
    )
    assert left == {"1": "refused", "2": "failed", "3": "refused", "4": "failed", "5": "refused"}


def test_a_delay_that_was_named_does_not_make_the_next_backoff_longer():
    sends: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        sends[request.path] += 1
        if request.path == "/1" and sends["/1"] <= 3:
            named = {"Retry-After": "0"} if sends["/1"] < 3 else {}
            return web.Response(status=429, headers=named)
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=2)))
    row = Request.objects.get(run=run, key="1")
    assert (row.attempts, row.backoff_step) == (4, 1)

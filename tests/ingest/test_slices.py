"""Several slices of one run at a time, each in a thread as in a worker of its own; several runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from django.db import connection, transaction

from ingest import runs, services, slices
from ingest.errors import LeaseLost
from ingest.fetch import loop
from ingest.fetch.signs import Signs
from ingest.models import Record, Request, Run, RunEvent, Slice, Source
from ingest.outcomes import Outcome, RunState
from ingest.selectors import count_outcomes
from tests.ingest.stopwatch import let_work, stopwatch
from tests.ingest.test_pipeline import good, make_source, start
from tests.ingest.upstream import ScriptedUpstream, scripted_upstream
from tests.waiting import wait_until

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def workers(count: int, *run_ids: int) -> Iterator[list[BaseException]]:
    """`count` threads that take turns at the runs until they are told to stop."""
    is_over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not is_over.is_set():
                for run_id in run_ids:
                    if not slices.run_slice(run_id).is_due:
                        is_over.wait(0.05)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for each in threads:
        each.start()
    try:
        yield failures
    finally:
        is_over.set()
        for each in threads:
            each.join(40)
        for run in Run.objects.filter(pk__in=run_ids):
            seen = (run.state, run.why_ended, count_outcomes(run), run.signs)
            logger.warning("Run %d: %s", run.pk, seen)
        # Also where the caller failed: a worker's error is why.
        assert not failures, failures


def is_finished(run: Run) -> bool:
    run.refresh_from_db()
    return run.is_finished


def sent(upstream: ScriptedUpstream) -> int:
    return len(upstream.seen)


@pytest.fixture
def four_slices(settings: Any) -> int:
    settings.RUN_SLICES = 4
    return 4


def test_four_slices_send_each_request_once_and_number_their_events(four_slices: int):
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(0.01)
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = start(make_source(upstream.url, stop=1500, limits={"concurrency": 10}))
        most = 0
        with workers(four_slices, run.pk):
            while not is_finished(run):
                most = max(most, Slice.objects.filter(run=run).count())
                time.sleep(0.01)
    assert 2 <= most <= four_slices  # what three have claimed may leave nothing for the fourth
    assert run.state == RunState.COMPLETE
    assert set(Counter(path for path, _ in upstream.seen).values()) == {1}
    assert Record.objects.count() == 1500
    events = list(RunEvent.objects.filter(run=run))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert Request.objects.filter(run=run).exclude(slice=None).count() == 0


def test_a_block_that_the_slices_see_together_stops_all_of_them_with_evidence(four_slices: int):
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        if sent(upstream) > 300:
            return web.json_response({"error": "no"}, status=403)
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = start(make_source(upstream.url, stop=5000, limits={"concurrency": 5}))
        with workers(four_slices, run.pk):
            wait_until(lambda: sent(upstream) > 300)
            with stopwatch() as elapsed:
                wait_until(lambda: is_finished(run))
                took = elapsed()
            before = sent(upstream)
            let_work(1.2)
            assert sent(upstream) == before
    assert took < 5
    outcomes = count_outcomes(run)
    assert run.state == RunState.BLOCKED
    assert outcomes["planned"] == 0
    assert outcomes["delivered"] + outcomes["denied"] == sent(upstream)
    assert outcomes["blocked"] == 5000 - sent(upstream)
    assert Request.objects.filter(run=run, outcome="blocked", attempts__gt=0).count() == 0
    alert = RunEvent.objects.get(run=run, kind="alert")
    assert "401 or 403" in alert.message
    evidence = alert.details or {}
    assert evidence["status"] == 403
    assert Request.objects.get(run=run, key=evidence["key"]).outcome == Outcome.DENIED


def test_what_replaced_keys_were_told_blocks_nobody_and_ends_the_slice():
    source = make_source("http://127.0.0.1:9")
    run = start(source)
    held = runs.open_slice(run.pk, worker="one")
    assert held is not None
    share = slices._Sharing(held, runs.configuration_of(run), source_at=run.source.updated_at)
    assert not share.begin().is_turn_over
    services.update_source(
        source=source,
        patch={"request": {"api_key": {"in": "header", "name": "X-Key", "secret": "new-one"}}},
    )
    news, now = Signs(block_reason="5 answers in a row were 401 or 403"), time.time()
    for index in range(9):
        news.denied.extend(now + index)
    with transaction.atomic():
        shared = share(news, now + 10)
    assert shared.is_turn_over
    assert not shared.signs.block_reason
    assert not shared.signs.denied.times


def test_nothing_is_judged_before_every_slice_of_the_run_has_reported(four_slices: int):
    run = start(make_source("http://127.0.0.1:9"))
    held = [runs.open_slice(run.pk, worker=name) for name in ("one", "two")]
    first, second = (
        slices._Sharing(each, runs.configuration_of(run), source_at=run.source.updated_at)
        for each in held
        if each is not None
    )
    now = time.time()
    seen, later = Signs(), Signs()
    for index in range(5):
        seen.denied.extend(now + index)
        later.denied.extend(now + 11 + index)
    between = Signs()
    between.denied.end(now + 2.5)
    with transaction.atomic():
        assert not first.begin().is_alone
        assert not first(seen, now + 10).signs.block_reason
        assert not second(between, now + 10).signs.block_reason
        assert not first(later, now + 20).signs.block_reason
        assert second(Signs(), now + 20).signs.block_reason
    assert Run.objects.get(pk=run.pk).signs["block_reason"]


def test_a_host_that_is_down_is_probed_by_one_slice_at_a_time(four_slices: int):
    is_up = True
    under_way = 0
    most_at_once = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most_at_once
        if is_up:
            return good(request)
        under_way += 1
        most_at_once = max(most_at_once, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return web.Response(status=503)

    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url,
            stop=1200,
            limits={"per_second": 600, "concurrency": 5},
            block={"patience_5xx": 20},
            retry={"base_seconds": 0.2, "cap_seconds": 0.4, "attempts": None},
        )
        run = start(source)
        with workers(four_slices, run.pk):
            wait_until(lambda: sent(upstream) > 100)
            is_up = False
            wait_until(lambda: bool(Run.objects.get(pk=run.pk).signs.get("down_since")))
            let_work(3 * loop.REPORT_SECONDS)  # each slice hears of it when it reports
            most_at_once = 0
            before = sent(upstream)
            wait_until(lambda: sent(upstream) > before)
            let_work(1.5)
            probes = sent(upstream) - before
            assert most_at_once == 1
            assert 1 <= probes <= 8
            is_up = True
            wait_until(lambda: is_finished(run), seconds=60)
    assert run.state == RunState.COMPLETE


def test_a_short_run_is_not_kept_waiting_for_a_long_one(monkeypatch: Any):
    monkeypatch.setattr(slices, "SHORT_TURN_SECONDS", 0.5)
    monkeypatch.setattr(runs, "WAITING_SECONDS", 0.2)

    async def answer(request: web.Request) -> web.Response:
        return good(request)

    with scripted_upstream(answer) as upstream:
        limits = {"per_second": 20, "concurrency": 2}
        long_run = start(make_source(upstream.url, stop=1000, limits=limits))
        other = services.create_source(
            owner=long_run.started_by,
            data={
                "slug": "others",
                "request": {"url": upstream.url + "/{id}"},
                "plan": {"type": "range", "name": "id", "start": 1, "stop": 5},
            },
        )
        with workers(1, long_run.pk):
            wait_until(lambda: sent(upstream) > 5)
            held = Slice.objects.filter(run=long_run).values_list("pk", flat=True)[0]
            short_run = start(other)
            wait_until(lambda: not Slice.objects.filter(pk=held).exists(), seconds=5)
            # A worker that asks for a second slice of the long run would be told to wait.
            assert runs.is_anybody_waiting(but=long_run.pk)
            runs.cancel_run(short_run.pk, by="the test")
            runs.cancel_run(long_run.pk, by="the test")


def test_a_further_worker_is_called_only_while_nobody_waits_for_a_first(four_slices: int):
    source = make_source("http://127.0.0.1:9")
    run = start(source)
    assert runs.wants_worker(run.pk)
    assert runs.open_slice(run.pk, worker="one") is not None
    assert runs.wants_worker(run.pk)
    other = start(_second_source(source))
    Request.objects.filter(run=other).update(due_at=run.created_at - timedelta(minutes=2))
    assert not runs.wants_worker(run.pk)
    assert runs.wants_worker(other.pk)


def _second_source(source: Source) -> Source:
    return services.create_source(
        owner=source.owner, data={**source.configuration, "slug": "second"}
    )


async def _stalls(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"id": 1, "name": "')
    await asyncio.sleep(20)
    await response.write(b'late"}')
    return response


async def _asks_for_a_pause(request: web.Request) -> web.Response:
    return web.Response(status=429, headers={"Retry-After": "30"})


@pytest.mark.parametrize(
    ("answer", "limits"),
    [
        (_stalls, {}),
        (_asks_for_a_pause, {"concurrency": 30}),
        (good, {"per_second": 0.2}),
    ],
    ids=["a slow body", "a long hold", "a slow rate"],
)
def test_a_cancelled_run_is_over_at_once_and_its_worker_within_two_seconds(
    answer: Any, limits: dict[str, Any]
):
    async def play(request: web.Request) -> web.StreamResponse:
        found = answer(request)
        response: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
        return response

    with scripted_upstream(play) as upstream:
        source = make_source(upstream.url, stop=200, limits=limits, request={"timeout_seconds": 60})
        run = start(source)
        with stopwatch() as elapsed, workers(1, run.pk):
            wait_until(lambda: sent(upstream) > 0)
            let_work(0.7)
            runs.cancel_run(run.pk, by="the test")
            before = sent(upstream)
            outcomes = count_outcomes(Run.objects.get(pk=run.pk))
            assert outcomes["planned"] == 0
            records = Record.objects.count()
            cancelled_at = elapsed()
        assert elapsed() - cancelled_at < 2.5
        assert sent(upstream) <= before + 1
    assert Record.objects.count() == records
    assert count_outcomes(Run.objects.get(pk=run.pk)) == outcomes


@pytest.mark.parametrize("turns", range(9))
def test_a_slice_ends_although_a_batch_is_full_as_its_lease_is_lost(
    turns: int, monkeypatch: pytest.MonkeyPatch
):
    """`turns` of the event loop lie between the two."""

    async def lose_lease(runner: Any) -> None:
        while not upstream.seen:
            await asyncio.sleep(0.01)

        async def fill_batch() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            runner.has_batch.set()

        filling.append(asyncio.create_task(fill_batch()))
        raise LeaseLost

    def work() -> None:
        slices.run_slice(run.pk)
        connection.close()

    filling: list[asyncio.Task[None]] = []
    monkeypatch.setattr(loop._SliceRunner, "_renew_regularly", lose_lease)
    with scripted_upstream(_stalls) as upstream:
        run = start(make_source(upstream.url, request={"timeout_seconds": 60}))
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(20)
        assert not worker.is_alive()

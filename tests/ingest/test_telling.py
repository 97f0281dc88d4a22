"""Which bad answers tell of the whole source, and which only of their row, key or redirect."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from django.db.models import F

from ingest import services
from ingest.models import Request, RunEvent
from ingest.outcomes import Outcome, RunState
from ingest.plans import prepare_request
from ingest.selectors import count_outcomes
from tests.ingest.test_blocks import key
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.upstream import scripted_upstream

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = {"patience": 5, "patience_429": 10, "patience_5xx": 10}


def number_of(request: web.Request) -> int:
    return int(request.path.strip("/"))


@pytest.mark.parametrize("status", [500, 403])
def test_rows_that_are_bad_for_good_use_up_their_attempts_and_stop_nothing(status: int):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status) if number_of(request) % 4 == 0 else good(request)

    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url, stop=80, block=PATIENCE, retry={"attempts": 3})
        run = drive(start(source))
        rows = Request.objects.filter(run=run).exclude(outcome=Outcome.DELIVERED)
        assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "plan")
        assert rows.count() == 20
        assert {row.attempts for row in rows} == {1 if status == 403 else 4}
        run = drive(services.sweep_run(run=run))
    assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "plan")
    assert {row.attempts for row in rows.all()} == {2 if status == 403 else 5}


def test_denied_rows_do_not_keep_a_sweep_by_hand_from_what_is_there_by_now():
    is_there = False

    async def answer(request: web.Request) -> web.Response:
        number = number_of(request)
        if number > 50 and number % 2:
            return web.Response(status=403)
        if number > 50 and not is_there:
            return web.Response(status=404)
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=80, block=PATIENCE)))
        assert run.state == RunState.INCOMPLETE
        is_there = True
        # All that are denied come first.
        Request.objects.filter(run=run, outcome=Outcome.MISSING).update(
            position=F("position") + 1000
        )
        run = drive(services.sweep_run(run=run))
    outcomes = count_outcomes(run)
    assert run.state == RunState.INCOMPLETE
    assert (outcomes["delivered"], outcomes["denied"]) == (65, 15)


def test_a_source_that_shut_us_out_and_still_does_is_found_shut_again():
    async def answer(request: web.Request) -> web.Response:
        return good(request) if number_of(request) <= 20 else web.Response(status=403)

    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url, stop=25, block=PATIENCE, limits={"concurrency": 1})
        run = drive(start(source))
        assert run.state == RunState.BLOCKED
        run = drive(services.sweep_run(run=run))
    assert run.state == RunState.BLOCKED


def test_requests_refused_for_good_without_any_other_answer_are_a_block():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=429)

    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url, stop=4, block=PATIENCE, retry={"attempts": 4})
        assert drive(start(source), seconds=60).state == RunState.BLOCKED


@pytest.mark.parametrize("text", ["no", "Access denied"])
def test_one_key_that_was_revoked_blocks_nothing(text: str):
    async def answer(request: web.Request) -> web.Response:
        if request.headers["X-Api-Key"] == "revoked-key":
            return web.Response(status=403, text=text)
        await asyncio.sleep(0.3)
        return good(request)

    keys = ("revoked-key", "good-key-1", "good-key-2")
    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url,
            stop=60,
            request={"api_key": [key(secret) for secret in keys]},
            limits={"concurrency": 6},
        )
        run = drive(start(source))
    assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "plan")
    outcomes = count_outcomes(run)
    assert outcomes["delivered"] + outcomes["denied"] == 60
    assert outcomes["denied"] <= 12


def test_the_source_is_shut_once_all_keys_are_denied():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=403)

    keys = [key(f"some-key-{n}") for n in range(3)]
    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url, stop=40, request={"api_key": keys}, block=PATIENCE)
        run = drive(start(source))
    assert run.state == RunState.BLOCKED
    assert len(upstream.seen) < 20


def test_a_key_at_its_limit_does_not_stop_the_others():
    async def answer(request: web.Request) -> web.Response:
        if request.headers["X-Api-Key"] == "full-key-1":
            return web.Response(status=429, headers={"Retry-After": "600"})
        return good(request)

    keys = ("full-key-1", "free-key-1")
    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url,
            stop=60,
            request={"api_key": [key(secret) for secret in keys]},
            limits={"concurrency": 4},
            retry={"cap_seconds": 5},
        )
        run = drive(start(source))
    assert run.state == RunState.COMPLETE
    assert sum(headers["X-Api-Key"] == "full-key-1" for _, headers in upstream.seen) <= 4
    assert "api_key[0] is set aside" in str(RunEvent.objects.values_list("message", flat=True))


@pytest.mark.parametrize("patience", [5, 1_000])
def test_redirects_to_a_dead_host_do_not_make_the_source_a_dead_one(patience: int):
    async def answer(request: web.Request) -> web.Response:
        if number_of(request) <= 20:
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})
        return good(request)

    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url, stop=50, block={"patience_5xx": patience}, retry={"attempts": 2}
        )
        run = drive(start(source))
    assert count_outcomes(run)["delivered"] == 30
    failed = Request.objects.filter(run=run, outcome=Outcome.FAILED)
    assert {(row.status_code, row.error) for row in failed} == {(302, "connection_refused")}
    assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "plan")


@pytest.mark.parametrize("status", [500, 429])
def test_a_sweep_leaves_a_row_alone_for_a_while(status: int):
    times: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=status)

    with scripted_upstream(answer) as upstream:
        retry = {"attempts": 1, "sweeps": 2, "base_seconds": 0.4, "cap_seconds": 5}
        drive(start(make_source(upstream.url, stop=1, retry=retry)))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 2
    assert gaps[0] >= 0.35
    assert gaps[1] >= 0.75


def test_rows_that_cannot_be_sent_are_no_sign_of_a_dead_host(monkeypatch: Any):
    def prepare_badly(configuration: Any, key: str, **more: Any) -> Any:
        request = prepare_request(configuration, key, **more)
        if int(key) <= 30:
            request.headers["X-Bad"] = "a\nb"
        return request

    monkeypatch.setattr("ingest.fetch.loop.prepare_request", prepare_badly)

    async def answer(request: web.Request) -> web.Response:
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=40, block=PATIENCE)))
    assert count_outcomes(run)["delivered"] == 10

"""Runs from plan to report against real servers over HTTP, in this process."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

import pytest
from aiohttp import web

from ingest import ledger, runs, services, slices
from ingest.errors import NothingToSweep, RunActive, RunNotActive
from ingest.fetch import loop
from ingest.models import Delivery, ErrorLog, Job, JobState, Record, Request, Run, RunEvent, Source
from ingest.outcomes import Outcome, RunState
from ingest.reconcile import reconcile_run
from ingest.selectors import count_outcomes, describe_run
from tests.ingest.factories import UserFactory
from tests.ingest.stopwatch import stopwatch
from tests.ingest.upstream import scripted_upstream

pytestmark = pytest.mark.django_db(transaction=True)


def make_source(url: str, *, stop: int = 20, **parts: Any) -> Source:
    limits = {"per_second": None, "concurrency": 5, **parts.pop("limits", {})}
    retry = {"base_seconds": 0.01, "cap_seconds": 0.05, **parts.pop("retry", {})}
    return services.create_source(
        owner=UserFactory(),
        data={
            "slug": "things",
            "request": {"url": url + "/{id}", "timeout_seconds": 10, **parts.pop("request", {})},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": stop},
            "limits": limits,
            "retry": retry,
            **parts,
        },
    )


def drive(run: Run, *, seconds: float = 30.0) -> Run:
    """Does what the workers do until the run is finished."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        step = slices.run_slice(run.pk)
        run.refresh_from_db()
        if run.is_finished:
            return run
        if not step.is_due:
            time.sleep(0.02)
    raise TimeoutError(f"run {run.pk} is still {run.state} after {seconds} s")


def start(source: Source) -> Run:
    return runs.create_run(source, user=source.owner)


def good(request: web.Request) -> web.Response:
    number = int(request.path.rpartition("/")[2])
    return web.json_response({"id": number, "name": f"thing {number}"})


async def always_good(request: web.Request) -> web.Response:
    return good(request)


def test_a_calm_upstream_ends_in_a_complete_run():
    with scripted_upstream(always_good) as upstream:
        run = drive(start(make_source(upstream.url)))
    assert run.state == RunState.COMPLETE
    assert count_outcomes(run)["delivered"] == 20
    assert Record.objects.count() == Delivery.objects.count() == len(upstream.seen) == 20
    assert describe_run(run)["records"] == {"new": 20, "changed": 0, "unchanged": 0}
    report = reconcile_run(run)
    assert (report.unknown, report.missing, report.not_stored) == (0, [], [])
    assert report.verdict["complete"]
    assert Job.objects.get(run=run).state == JobState.FINISHED


def test_the_database_is_told_of_a_burst(monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(ledger, "refresh_statistics", lambda: told.append(Delivery.objects.count()))
    monkeypatch.setattr(loop, "FLUSH_ANSWERS", 10)
    monkeypatch.setattr(loop, "STATISTICS_ANSWERS", 20)
    with scripted_upstream(always_good) as upstream:
        run = drive(start(make_source(upstream.url, stop=100)))
    assert run.state == RunState.COMPLETE
    assert 1 <= len(told) <= 3
    assert 20 <= told[0] <= 60


def test_the_same_again_changes_nothing():
    with scripted_upstream(always_good) as upstream:
        source = make_source(upstream.url)
        drive(start(source))
        before = list(Record.objects.values_list("pk", "updated_at"))
        run = drive(start(source))
    assert describe_run(run)["records"] == {"new": 0, "changed": 0, "unchanged": 20}
    assert list(Record.objects.values_list("pk", "updated_at")) == before


def test_a_refused_request_is_retried_after_the_delay_the_server_names():
    asked: dict[str, list[float]] = {}

    async def answer(request: web.Request) -> web.Response:
        asked.setdefault(request.path, []).append(time.monotonic())
        if request.path == "/3" and len(asked[request.path]) == 1:
            return web.json_response({}, status=429, headers={"Retry-After": "1"})
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url)))
    assert run.state == RunState.COMPLETE
    first, second = asked["/3"]
    assert second - first >= 1.0
    row = Request.objects.get(key="3")
    assert (row.outcome, row.attempts) == (Outcome.DELIVERED, 2)
    error = ErrorLog.objects.get()
    assert (error.outcome, error.status_code, error.attempt) == ("refused", 429, 1)


def test_only_what_failed_is_sent_again_and_a_lasting_failure_is_named():
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/7":
            return web.Response(status=500, text="broken for good")
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, retry={"attempts": 3, "sweeps": 1})))
    sends = Counter(path for path, _ in upstream.seen)
    assert sends.pop("/7") == 3 + 1  # three in the first pass, one in the sweep
    assert set(sends.values()) == {1}
    assert run.state == RunState.INCOMPLETE
    report = reconcile_run(run)
    assert report.missing == [
        {
            "key": "7",
            "url": f"{upstream.url}/7",
            "outcome": "failed",
            "reason": "500 Internal Server Error",
        }
    ]
    assert report.verdict["books_balance"]
    assert not report.verdict["complete"]


def test_a_sweep_heals_what_was_empty_or_malformed_for_a_while():
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        seen[request.path] += 1
        if request.path == "/2" and seen["/2"] == 1:
            return web.json_response([])
        if request.path == "/4" and seen["/4"] == 1:
            return web.Response(text="<html>", content_type="text/html")
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url)))
    assert run.state == RunState.COMPLETE
    assert (seen["/2"], seen["/4"], seen["/1"]) == (2, 2, 1)
    assert sorted(ErrorLog.objects.values_list("outcome", flat=True)) == ["empty", "malformed"]


def test_an_accepted_outcome_does_not_make_a_run_incomplete():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404) if request.path == "/5" else good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, retry={"accept": ["missing"]})))
    assert run.state == RunState.COMPLETE
    assert reconcile_run(run).missing == []
    assert count_outcomes(run)["missing"] == 1


def test_an_unreachable_upstream_ends_in_failed_rows_and_an_incomplete_run():
    source = make_source(
        "http://127.0.0.1:9",
        stop=200,
        block={"patience_5xx": 10},
        retry={"attempts": 2, "sweeps": 0},
    )
    run = drive(start(source))
    assert run.state == RunState.INCOMPLETE
    assert run.why_ended == "host down"
    assert count_outcomes(run)["failed"] == 200
    reasons = {gap["reason"] for gap in reconcile_run(run).missing}
    assert "host down" in reasons
    assert Request.objects.filter(attempts__gt=0).count() < 100


def test_a_single_403_stops_nothing_and_many_in_a_row_do():
    async def one(request: web.Request) -> web.Response:
        if request.path == "/9":
            return web.json_response({"error": "access denied"}, status=403)
        return good(request)

    async def shut(request: web.Request) -> web.Response:
        number = int(request.path.rpartition("/")[2])
        return web.Response(status=403) if number > 30 else good(request)

    with scripted_upstream(one) as upstream:
        run = drive(start(make_source(upstream.url)))
    assert (run.state, count_outcomes(run)["denied"]) == (RunState.INCOMPLETE, 1)
    Source.objects.all().delete()
    with scripted_upstream(shut) as upstream:
        run = drive(start(make_source(upstream.url, stop=2000)))
    outcomes = count_outcomes(run)
    assert run.state == RunState.BLOCKED
    # One sender may still have been looking for its slot when the others met the block.
    assert 29 <= outcomes["delivered"] <= 30
    assert outcomes["denied"] >= 5
    assert outcomes["blocked"] > 1800
    assert sum(outcomes.values()) == 2000
    assert outcomes["planned"] == 0


def test_a_marker_in_two_denials_in_a_row_blocks_at_once():
    async def answer(request: web.Request) -> web.Response:
        body = {"error": "Your IP has been permanently banned", "status": 403}
        return web.json_response(body, status=403)

    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url, stop=500, limits={"concurrency": 1})
        run = drive(start(source))
    assert run.state == RunState.BLOCKED
    assert len(upstream.seen) <= 4


def test_at_the_deadline_what_was_never_answered_is_cancelled():
    async def answer(request: web.Request) -> web.Response:
        headers = {"Retry-After": "3600"}
        if request.path == "/1":
            return web.Response(status=429, headers=headers)
        return good(request)

    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url, stop=400, limits={"per_second": 20, "deadline_seconds": 2.0}
        )
        run = drive(start(source))
    outcomes = count_outcomes(run)
    assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "deadline")
    assert outcomes["refused"] == 1  # its wait ends after the deadline: not sent again
    assert outcomes["cancelled"] > 300
    assert 5 <= outcomes["delivered"] <= 50
    assert sum(outcomes.values()) == 400


def test_cancel_keeps_what_has_evidence_and_nothing_stays_planned():
    with scripted_upstream(always_good) as upstream:
        source = make_source(upstream.url, stop=50)
        run = start(source)
        services.cancel_run(run=run)
        run.refresh_from_db()
        assert run.state == RunState.CANCELLED
        assert count_outcomes(run)["cancelled"] == 50
        with pytest.raises(RunNotActive):
            services.cancel_run(run=run)
        assert upstream.seen == []


def test_fetch_what_is_missing_reopens_a_finished_run():
    is_mended = False

    async def answer(request: web.Request) -> web.Response:
        if request.path in {"/1", "/2"} and not is_mended:
            return web.Response(status=404 if request.path == "/1" else 403)
        return good(request)

    with scripted_upstream(answer) as upstream:
        source = make_source(upstream.url)
        run = drive(start(source))
        assert run.state == RunState.INCOMPLETE
        is_mended = True
        runs.reopen_for_sweep(run.pk)
        with pytest.raises(RunActive):
            start(source)
        run = drive(run)
        assert run.state == RunState.COMPLETE
        with pytest.raises(NothingToSweep):
            runs.reopen_for_sweep(run.pk)
    assert sum(1 for path, _ in upstream.seen if path in {"/1", "/2"}) == 4


def test_a_second_run_of_a_source_is_refused_with_the_id_of_the_first():
    source = make_source("http://127.0.0.1:9")
    run = start(source)
    with pytest.raises(RunActive) as caught:
        start(source)
    assert caught.value.run_id == run.pk


def test_the_rate_is_kept_as_the_server_counts_it():
    times: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        return good(request)

    with scripted_upstream(answer) as upstream:
        limits = {"per_second": 25, "concurrency": 20}
        run = start(make_source(upstream.url, stop=60, limits=limits))
        with stopwatch() as elapsed:
            drive(run)
            took = elapsed()
    busiest = max(sum(1 for each in times if at <= each < at + 1) for at in times)
    # The server shares this process: on a busy machine it may be late in looking at its clock.
    assert busiest <= 28
    assert len(times) / took >= 0.5 * 25


def test_a_hidden_limit_is_learned_instead_of_being_taken_for_a_block():
    passed: deque[float] = deque()

    async def answer(request: web.Request) -> web.Response:
        now = time.monotonic()
        while passed and passed[0] <= now - 1:
            passed.popleft()
        if len(passed) >= 30:
            return web.Response(status=429)
        passed.append(now)
        return good(request)

    with scripted_upstream(answer) as upstream:
        limits = {"per_second": None, "concurrency": 50}
        retry = {"base_seconds": 1, "cap_seconds": 5}
        run = drive(start(make_source(upstream.url, stop=150, limits=limits, retry=retry)))
    assert run.state == RunState.COMPLETE
    refused = len(upstream.seen) - 150
    assert 0 < refused < 200


def test_events_are_numbered_and_end_with_the_final_state():
    with scripted_upstream(always_good) as upstream:
        run = drive(start(make_source(upstream.url)))
    events = list(RunEvent.objects.filter(run=run))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state == RunState.COMPLETE
    assert events[-1].done == 20
    for event in events:
        assert sum(event.outcomes.values()) == event.planned == 20


def test_an_unexpected_exception_three_times_in_a_row_crashes_the_run():
    source = make_source("http://127.0.0.1:9")
    run = start(source)
    # What is stored is broken by hand: no slice can read it.
    Source.objects.filter(pk=source.pk).update(
        configuration={
            **source.configuration,
            "request": {
                **source.configuration["request"],
                "headers": {"Authorization": {"set": True}},
            },
        }
    )
    for _ in range(3):
        with pytest.raises(Exception, match="no secret is stored"):
            slices.run_slice(run.pk)
    run.refresh_from_db()
    assert run.state == RunState.CRASHED
    assert count_outcomes(run)["cancelled"] == 20
    assert ErrorLog.objects.filter(error_type="ConfigurationInvalid").count() == 3


def test_a_secret_that_the_upstream_echoes_is_nowhere_in_the_database():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=400, text=f"no such key {request.headers['X-Api-Key']}")

    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url,
            stop=3,
            request={"api_key": {"in": "header", "name": "X-Api-Key", "secret": "hush-hush-1"}},
        )
        run = drive(start(source))
    tables: tuple[Any, ...] = (Source, Run, Request, ErrorLog, RunEvent)
    everything = "".join(str(list(table.objects.values())) for table in tables)
    assert "hush-hush" not in everything
    assert "no such key ***" in everything
    assert count_outcomes(run)["failed"] == 3


def test_a_source_that_later_rules_would_refuse_still_runs():
    with scripted_upstream(always_good) as upstream:
        source = make_source(upstream.url, stop=3)
        # As it could be stored once.
        source.configuration["block"]["markers"] = [" "]
        source.save()
        assert drive(start(source)).state == RunState.COMPLETE

"""Upstreams, users and moments that mean harm: each ends in a named outcome or a clear error."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from django.db import connections
from django.utils import timezone

from ingest import ledger, runs, services, slices, tasks
from ingest.configuration import parse_configuration
from ingest.errors import ConfigurationInvalid, IngestError, LeaseLost
from ingest.fetch import loop
from ingest.fetch.answers import Answer, Reply, Verdict
from ingest.fetch.budget import Budget
from ingest.fetch.classify import Classifier
from ingest.fetch.guard import AddressGuard, is_public
from ingest.fetch.loop import next_batch
from ingest.fetch.signs import Signs, SignWatch
from ingest.fetch.transport import Transport
from ingest.models import Bucket, Delivery, ErrorLog, Record, Request, Run, RunEvent, Slice, Source
from ingest.outcomes import Outcome, RunState
from ingest.plans import prepare_request
from ingest.secrets import Redactor
from tests.ingest.factories import RunFactory, SourceFactory
from tests.ingest.test_pipeline import always_good, drive, good, make_source, start
from tests.ingest.test_transport import OPEN, configure, json_answer, send
from tests.ingest.upstream import raw_upstream, scripted_upstream

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[{"id":%d}]'


# ---- one exchange


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one():
    is_said = threading.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK % 1)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(OK % 9)
        is_said.set()
        await reader.read(10_000)

    with raw_upstream(play) as url:
        configuration = configure(url)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            await transport.send(prepare_request(configuration, "1"))
            async with asyncio.timeout(10):
                while not is_said.is_set():
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # on loopback it has arrived, and is read in these rounds
            second = await transport.send(prepare_request(configuration, "2"))
    assert second.body == b'[{"id":1}]'  # of a connection of its own


@pytest.mark.parametrize("charset", [b"utf-8\xe9", b"undefined", b"idna", b"rot13", b"utf-16"])
async def test_a_charset_that_python_stumbles_over_is_malformed(charset: bytes):
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=" + charset
        writer.write(head + b'\r\nContent-Length: 11\r\n\r\n[{"id"..11}')
        await writer.drain()

    with raw_upstream(play) as url:
        _, verdict = await send(configure(url))
    assert verdict.outcome == Outcome.MALFORMED
    json.dumps(verdict.evidence, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "location",
    [
        b"http://host:99999/",
        b"http://a..b/",
        b"http://[::1/",
        b"http://h:0/",
        b"file:///etc/passwd",
    ],
)
async def test_a_redirect_to_nonsense_is_failed_with_its_status(location: bytes):
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 F\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    with raw_upstream(play) as url:
        reply, verdict = await send(configure(url))
    assert verdict.outcome == Outcome.FAILED
    assert reply.failure in {"redirect", "unsendable", "dns"}, reply


async def test_a_secret_in_the_query_does_not_follow_a_redirect_to_another_origin():
    with scripted_upstream(json_answer()) as other:

        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": other.url + request.path_qs})

        with scripted_upstream(answer) as upstream:
            key = {"in": "query", "name": "k", "secret": "sesame open&up"}
            reply, verdict = await send(configure(upstream.url, api_key=key))
    assert other.seen == []
    assert (reply.status, verdict.error) == (302, "redirect")
    assert "sesame" not in json.dumps(verdict.evidence)


async def test_a_host_on_the_allow_list_does_not_open_other_private_addresses():
    async def answer(request: web.Request) -> web.Response:
        port = request.url.port
        return web.Response(status=302, headers={"Location": f"http://127.0.0.2:{port}/"})

    with scripted_upstream(answer) as upstream:
        port = upstream.url.rpartition(":")[2]
        for entry in ("localhost", f"localhost:{port}"):
            reply, _ = await send(
                configure(f"http://localhost:{port}"), AddressGuard(allowed=(entry,))
            )
            assert reply.failure == "refused_address"
            assert "127.0.0.2" in reply.reason


@pytest.mark.parametrize("host", ["127.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_proxy_is_no_way_around_the_guard(host: str):
    with scripted_upstream(json_answer()) as proxy:
        guard = AddressGuard(allowed=(proxy.url.removeprefix("http://"),))
        reply, _ = await send(configure(f"http://{host}:81", proxies=[proxy.url]), guard)
    assert reply.failure == "refused_address"
    assert proxy.seen == []


def test_site_local_addresses_are_not_public():
    assert not is_public("fec0::1")


async def test_a_long_header_is_no_reason_to_fail():
    with scripted_upstream(json_answer(headers={"Link": "x" * 20_000})) as upstream:
        _, verdict = await send(configure(upstream.url))
    assert verdict.outcome == Outcome.DELIVERED


@pytest.mark.parametrize("key", ["a/b", "a b", "ü", "a?b#c", "%2F", "a+b&c=d"])
async def test_a_key_with_odd_characters_arrives_as_it_is(key: str):
    asked: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.match_info["tail"], request.query["q"]))
        return web.json_response([{"id": 1}])

    with scripted_upstream(answer) as upstream:
        configuration = configure(upstream.url, params={"q": "{id}"})
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            await transport.send(prepare_request(configuration, key))
    assert asked == [(f"items/{key}", key)]


async def test_a_line_break_in_a_header_is_failed_and_not_sent_again():
    with scripted_upstream(json_answer()) as upstream:
        configuration = configure(upstream.url, headers={"X-Id": "{id}"})
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            reply = await transport.send(prepare_request(configuration, "1\r\nX-Evil: 1"))
            await transport.send(prepare_request(configuration, "2"))
    assert reply.failure == "unsendable"
    assert [headers["X-Id"] for _, headers in upstream.seen] == ["2"]


# ---- reading


def read(body: object, **records: Any) -> Verdict:
    configuration = parse_configuration(
        {
            "slug": "x",
            "request": {"url": "http://h/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 1},
            "records": records,
        }
    )
    text = body if isinstance(body, str) else json.dumps(body)
    return Classifier.of(configuration, redact=Redactor([])).classify(
        Reply(status=200, body=text.encode())
    )


def test_a_number_beyond_float_does_not_break_a_schema():
    schema = {"properties": {"n": {"multipleOf": 0.01}}}
    answer = [{"id": 1, "n": 10**400}]
    assert read(answer, schema=schema).outcome == Outcome.DELIVERED
    verdict = read(answer, schema={"properties": {"n": {"maximum": 1}}})
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "schema")


def test_a_path_that_does_not_fit_the_values_is_malformed():
    verdict = read({"name": "abc", "id": 1}, path="contains(name, id)")
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "path_error")


@pytest.mark.parametrize("path", ['"data-set"', 'a."b.c"', "a.b.c"])
def test_null_with_the_last_key_present_is_empty_whatever_its_name(path: str):
    document = {"data-set": None, "a": {"b.c": None, "b": {"c": None}}}
    assert read(document, path=path).outcome == Outcome.EMPTY


def test_a_batch_is_cut_by_its_records():
    def answer(records: int) -> Answer:
        verdict = Verdict(Outcome.DELIVERED, records=[None] * records)  # type: ignore[list-item]
        return Answer(1, 1, 0, "1", "", 1, 1, 0, verdict, 200, 1.0, timezone.now(), None)

    assert len(next_batch([answer(4_000)] * 5)) == 1
    assert len(next_batch([answer(90_000)] * 2)) == 1
    assert len(next_batch([answer(1)] * 800)) == 500
    assert next_batch([]) == []


# ---- secrets


@pytest.mark.parametrize(
    "secret", ['quo"te\\back', "ключ-секрет", "two words+plus", "slash/and=equals"]
)
def test_a_secret_is_hidden_in_every_spelling(secret: str):
    from urllib.parse import quote_plus

    redact = Redactor([secret])
    for text in (json.dumps({"k": secret}), json.dumps(secret, ensure_ascii=False)):
        assert redact(text) in {'{"k": "***"}', '"***"'}
    assert redact(quote_plus(secret)) == "***"


def test_the_password_of_basic_credentials_is_a_secret_too():
    redact = Redactor(["Basic " + base64.b64encode(b"me:opensesame").decode()])
    assert redact("user me, password opensesame") == "user me, password ***"


async def test_a_secret_at_the_edge_of_the_evidence_is_not_cut_in_two():
    body = "x" * 190 + "hush-hush-hush-1"
    with scripted_upstream(_say(400, body)) as up:
        configuration = configure(up.url)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            reply = await transport.send(prepare_request(configuration, "1"))
    verdict = Classifier.of(configuration, redact=Redactor(["hush-hush-hush-1"])).classify(reply)
    assert verdict.evidence is not None
    assert verdict.evidence["first_characters"] == "x" * 190 + "***"


def _say(status: int, text: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return answer


# ---- the circuit


def watch(**retry: Any) -> SignWatch:
    configuration = parse_configuration(
        {
            "slug": "x",
            "request": {"url": "http://h/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 1},
            "block": {"patience_5xx": 10},
            "retry": retry,
        }
    )
    return SignWatch(configuration, Signs())


def test_what_was_under_way_when_the_circuit_opened_is_no_probe():
    signs = watch(attempts=3)
    dead = Verdict(Outcome.FAILED)
    for _ in range(200):
        signs.note(dead, None, sent_at=100.0, at=101.0)
    assert signs.is_host_down
    assert (signs.signs.probes, signs.is_given_up) == (0, False)
    assert signs.signs.probe_after == 102.0
    for probe in range(3):
        signs.note(dead, None, sent_at=110.0 + probe, at=110.5 + probe)
    assert signs.is_given_up


# ---- the budget


@pytest.mark.django_db(transaction=True)
def test_a_redirect_on_the_same_host_counts_in_its_budget():
    times: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        if not request.path.endswith("/"):
            return web.Response(status=301, headers={"Location": request.path + "/"})
        return web.json_response({"id": int(request.path.strip("/"))})

    with scripted_upstream(answer) as upstream:
        limits = {"per_second": 10, "concurrency": 5}
        run = drive(start(make_source(upstream.url, stop=10, limits=limits)))
    assert run.state == RunState.COMPLETE
    assert len(times) == 20
    # Without the redirects 20. The server shares this process: see the next test.
    assert max(sum(1 for each in times if at <= each < at + 1) for at in times) <= 13


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_own_limit", [True, False])
def test_a_redirect_to_another_host_counts_in_the_budget_there(is_own_limit: bool):
    times: list[float] = []

    async def answer_there(request: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.json_response({"id": int(request.path.strip("/"))})

    async def answer_here(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3 * random.random())
        return web.Response(status=307, headers={"Location": there.url + request.path})

    with scripted_upstream(answer_there) as there, scripted_upstream(answer_here) as here:
        limits = {"per_second": 8}
        other = make_source(there.url, slug="other", stop=1, limits=limits)
        if not is_own_limit:
            runs.create_run(other, user=other.owner)  # no worker is at it, and it limits its host
        own = {"per_second": 8 if is_own_limit else None, "concurrency": 8}
        run = drive(start(make_source(here.url, stop=25, limits=own)))
    assert run.state == RunState.COMPLETE
    assert len(times) == 25
    # Unlimited, all come within a second. The servers share this process, and are late to look at
    # the clock on a busy machine: to the request the limit is counted in tests/live/test_limits.py.
    assert max(sum(1 for each in times if at <= each < at + 1) for at in times) <= 11


@pytest.mark.django_db(transaction=True)
def test_what_was_answered_is_kept_when_something_unexpected_ends_the_slice(monkeypatch):
    classify = Classifier.classify

    def stumble(self: Classifier, reply: Reply) -> Verdict:
        verdict = classify(self, reply)
        if verdict.records and verdict.records[0].key == "7":
            raise RuntimeError("never thought of")
        return verdict

    monkeypatch.setattr(Classifier, "classify", stumble)
    with scripted_upstream(always_good) as upstream:
        run = start(make_source(upstream.url, stop=20, limits={"concurrency": 1}))
        with pytest.raises(RuntimeError):
            slices.run_slice(run.pk)
    assert Request.objects.filter(run=run, outcome="delivered").count() == 6


# ---- configurations


@pytest.mark.parametrize(
    ("path", "patch"),
    [
        ("plan.stop", {"plan": {"type": "range", "name": "id", "start": 0, "stop": 10**30}}),
        ("plan", {"plan": {"type": "range", "name": "id", "start": -(2**62), "stop": 2**62}}),
        ("name", {"name": "a\x00b"}),
        ("records.schema.const", {"records": {"schema": {"const": "\x00"}}}),
        ("records.schema.minimum", {"records": {"schema": {"minimum": float("nan")}}}),
        ("records.schema", {"records": {"schema": {"$schema": []}}}),
        ("request.params", {"request": {"params": {"\ud800": "x"}}}),
        ("plan.values", {"plan": {"type": "values", "name": "id", "values": ["a", ".."]}}),
        ("request.proxies", {"request": {"proxies": [{"http": "http://[bad@"}]}}),
    ],
)
@pytest.mark.django_db
def test_a_configuration_that_cannot_be_kept_or_sent_is_refused_by_path(path: str, patch: Any):
    source = SourceFactory()
    base = {k: v for k, v in source.configuration.items() if k not in patch}
    request = {**source.configuration["request"], **patch.get("request", {})}
    # A merge patch takes out what is null.
    plan = {**dict.fromkeys(source.configuration["plan"]), **patch.get("plan", base.get("plan"))}
    for refuse in (
        lambda: services.create_source(
            owner=source.owner, data={**base, **patch, "slug": "other", "request": request}
        ),
        lambda: services.update_source(source=source, patch={**patch, "plan": plan}),
    ):
        with pytest.raises(ConfigurationInvalid) as caught:
            refuse()
        assert any(field.startswith(path) for field in caught.value.fields)


@pytest.mark.django_db
def test_a_patch_that_is_nested_without_end_is_refused():
    deep: Any = {}
    for _ in range(5_000):
        deep = {"a": deep}
    with pytest.raises(ConfigurationInvalid):
        services.update_source(source=SourceFactory(), patch={"records": {"schema": deep}})


# ---- runs


@pytest.mark.django_db(transaction=True)
def test_a_run_that_is_cancelled_before_its_first_send_stays_cancelled():
    run = start(make_source("http://127.0.0.1:9"))
    held = ledger.open_slice(run.pk, worker="w", at_most=1)
    assert held is not None
    runs.cancel_run(run.pk, by="hand")
    with pytest.raises(LeaseLost):
        runs.note_first_send(run.pk)
    assert ledger.open_slice(run.pk, worker="w", at_most=1) is None
    slices.run_slice(run.pk)
    run.refresh_from_db()
    assert (run.state, run.started_at) == (RunState.CANCELLED, None)


@pytest.mark.django_db(transaction=True)
def test_cancelling_between_lease_and_first_send_is_no_failure(monkeypatch):
    run = start(make_source("http://127.0.0.1:9"))
    first = ledger.open_slice

    def open_and_cancel(*args: Any, **kwargs: Any) -> Slice | None:
        held = first(*args, **kwargs)
        runs.cancel_run(run.pk, by="hand")
        return held

    monkeypatch.setattr(ledger, "open_slice", open_and_cancel)
    slices.run_slice(run.pk)
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED
    assert not ErrorLog.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_no_event_follows_the_one_that_ends_a_run():
    run = start(make_source("http://127.0.0.1:9"))
    runs.cancel_run(run.pk, by="hand")
    runs.note_step(run.pk, "too late")
    last = RunEvent.objects.filter(run=run).last()
    assert last is not None
    assert (last.state, last.message) == (RunState.CANCELLED, "cancelled")


@pytest.mark.django_db(transaction=True)
def test_a_sweep_does_not_send_what_the_upstream_put_off_beyond_the_deadline():
    async def answer(request: web.Request) -> web.Response:
        if request.path in {"/2", "/3"}:
            status = 429 if request.path == "/2" else 503
            return web.Response(status=status, headers={"Retry-After": "9999999999"})
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=5)))
    sends = Counter(path for path, _ in upstream.seen)
    assert (sends["/2"], sends["/3"]) == (1, 1)
    outcomes = dict(Request.objects.filter(run=run).values_list("key", "outcome"))
    assert (outcomes["2"], outcomes["3"]) == (Outcome.REFUSED, Outcome.FAILED)
    assert run.state == RunState.INCOMPLETE


@pytest.mark.django_db(transaction=True)
def test_a_sweep_waits_for_the_delay_that_the_last_answer_named():
    asked: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/2":
            asked.append(time.monotonic())
            if len(asked) == 1:
                return web.Response(status=429, headers={"Retry-After": "1"})
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=3, retry={"attempts": 1})))
    assert run.state == RunState.COMPLETE
    assert run.sweeps_done == 1
    assert asked[1] - asked[0] >= 1.0


@pytest.mark.django_db(transaction=True)
def test_a_host_that_is_down_at_the_deadline_leaves_failed_rows():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500)

    with scripted_upstream(answer) as upstream:
        source = make_source(
            upstream.url,
            stop=100,
            limits={"deadline_seconds": 4},
            block={"patience_5xx": 5},
            retry={"base_seconds": 30, "cap_seconds": 30, "attempts": None},
        )
        run = drive(start(source))
    reasons = set(
        Request.objects.filter(run=run, attempts=0).values_list("outcome", "evidence__reason")
    )
    assert reasons == {("failed", "host down")}
    assert (run.state, run.why_ended) == (RunState.INCOMPLETE, "deadline")


@pytest.mark.django_db(transaction=True)
def test_a_slice_that_lives_may_write_its_last_answers_at_the_deadline():
    run = start(make_source("http://127.0.0.1:9"))
    held = ledger.open_slice(run.pk, worker="w", at_most=1)
    assert held is not None
    runs.note_first_send(run.pk)
    Run.objects.filter(pk=run.pk).update(deadline_at=timezone.now() - timedelta(seconds=1))
    runs.advance_run(run.pk)
    ledger.renew_slice(held)
    Run.objects.filter(pk=run.pk).update(deadline_at=timezone.now() - timedelta(seconds=9))
    runs.advance_run(run.pk)
    with pytest.raises(LeaseLost):
        ledger.renew_slice(held)


@pytest.mark.django_db(transaction=True)
def test_a_run_with_a_working_slice_is_not_shown_as_waiting():
    run = start(make_source("http://127.0.0.1:9", stop=2))
    held = ledger.open_slice(run.pk, worker="w", at_most=1)
    assert held is not None
    runs.note_first_send(run.pk)
    ledger.claim_requests(held, limit=1)
    later = timezone.now() + timedelta(hours=1)
    Request.objects.filter(run=run, slice=None).update(due_at=later)
    runs.advance_run(run.pk)
    run.refresh_from_db()
    assert run.state == RunState.FETCHING
    ledger.close_slice(held)
    Request.objects.filter(run=run).update(due_at=later)
    runs.advance_run(run.pk)
    run.refresh_from_db()
    assert run.state == RunState.WAITING


@pytest.mark.django_db(transaction=True)
def test_a_slice_that_lost_its_lease_ends_no_run():
    run = start(make_source("http://127.0.0.1:9"))
    result = loop.SliceResult(is_lease_lost=True)
    slices._conclude(run.pk, result)
    run.refresh_from_db()
    assert not run.is_finished


@pytest.mark.django_db(transaction=True)
def test_the_learned_rate_outlives_a_run_for_a_minute():
    source = SourceFactory()
    run = RunFactory(source=source, finished=True, signs={"rate": 7.0})
    Run.objects.filter(pk=run.pk).update(finished_at=timezone.now() - timedelta(seconds=30))
    second = start(source)
    assert second.signs == {"rate": 7.0}
    runs.cancel_run(second.pk, by="hand")
    Run.objects.update(finished_at=timezone.now() - timedelta(seconds=61))
    assert start(source).signs == {}


@pytest.mark.django_db(transaction=True)
def test_an_archived_source_starts_no_run():
    source = SourceFactory()
    stale = Source.objects.get(pk=source.pk)
    Source.objects.filter(pk=source.pk).update(archived_at=timezone.now())
    with pytest.raises(IngestError) as caught:
        runs.create_run(stale, user=None)
    assert caught.value.status_code == 409


@pytest.mark.django_db(transaction=True)
def test_a_purge_leaves_nothing_of_a_source():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404) if request.path == "/2" else good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=5)))
    Source.objects.update(archived_at=timezone.now())
    tasks.purge_source(run.source_id)
    for table in (Source, Run, Request, Delivery, Record, ErrorLog, Bucket, RunEvent):
        assert not table.objects.exists()
    tasks.run_slice(run.pk)  # a message that comes late


@pytest.mark.django_db(transaction=True)
def test_a_long_purge_takes_turns_with_what_waits_for_its_worker(monkeypatch: pytest.MonkeyPatch):
    woken: list[int] = []
    monkeypatch.setattr(tasks, "PURGE_ROWS", 2)
    monkeypatch.setattr(tasks, "PURGE_SECONDS", 0)
    monkeypatch.setattr(tasks.purge_source, "delay", woken.append)
    run = start(make_source("http://127.0.0.1:9", stop=5))
    Source.objects.update(archived_at=timezone.now())
    for left in (3, 1, 0):
        tasks.purge_source(run.source_id)
        assert Request.objects.count() == left
    assert woken == [run.source_id] * 3
    tasks.purge_source(run.source_id)
    assert not Source.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_purge_whose_message_was_lost_is_made_up_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        tasks.purge_source, "apply_async", lambda given, **_: tasks.purge_source(*given)
    )
    lost, recent, kept = (SourceFactory() for _ in range(3))
    for source, minutes in ((lost, 2), (recent, 0)):
        archived_at = timezone.now() - timedelta(minutes=minutes)
        Source.objects.filter(pk=source.pk).update(archived_at=archived_at)
    tasks.tidy_up()
    assert set(Source.objects.values_list("pk", flat=True)) == {recent.pk, kept.pk}


@pytest.mark.django_db(transaction=True)
def test_one_run_that_cannot_be_read_does_not_stop_the_scan():
    broken = start(make_source("http://127.0.0.1:9"))
    Run.objects.filter(pk=broken.pk).update(configuration={}, started_at=timezone.now())
    Request.objects.filter(run=broken).update(due_at=None)
    healthy = RunFactory()
    Request.objects.create(run=healthy, position=0, key="1", due_at=timezone.now())
    assert slices.find_idle_runs() == [healthy.pk]


@pytest.mark.django_db(transaction=True)
def test_what_is_under_way_is_written_when_redis_goes_away(monkeypatch):
    from redis.exceptions import ConnectionError as RedisAway

    waited = 0
    real = Budget.wait_for_slot

    async def wait_for_slot(self: Budget) -> bool:
        nonlocal waited
        waited += 1
        if waited == 4:
            while not upstream.seen:
                await asyncio.sleep(0.01)
            raise RedisAway("gone")
        return await real(self)

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return good(request)

    monkeypatch.setattr(Budget, "wait_for_slot", wait_for_slot)
    with scripted_upstream(answer) as upstream:
        run = start(make_source(upstream.url, stop=50))
        slices.run_slice(run.pk)
        run.refresh_from_db()
        assert not run.is_finished
        assert Request.objects.filter(outcome="delivered").count() == len(upstream.seen) > 0
        assert sum(Bucket.objects.values_list("sends", flat=True)) == len(upstream.seen)
        assert drive(run).state == RunState.COMPLETE


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_every_method_ends_in_an_outcome(method: str):
    with scripted_upstream(always_good) as upstream:
        run = drive(start(make_source(upstream.url, stop=1, request={"method": method})))
    row = Request.objects.get()
    assert row.outcome == (Outcome.EMPTY if method == "HEAD" else Outcome.DELIVERED)
    assert run.is_finished


@pytest.mark.django_db(transaction=True)
def test_sends_errors_and_attempts_agree_with_what_the_server_saw():
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        seen[request.path] += 1
        number = int(request.path[1:])
        if number % 5 == 0 and seen[request.path] == 1:
            return web.Response(status=[429, 500, 404, 403][number % 4])
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url, stop=60)))
    total = sum(seen.values())
    rows = Request.objects.filter(run=run)
    assert sum(rows.values_list("attempts", flat=True)) == total
    assert sum(Bucket.objects.values_list("sends", flat=True)) == total
    failed = sum(Bucket.objects.exclude(outcome="delivered").values_list("sends", flat=True))
    assert ErrorLog.objects.count() == failed == 12


@pytest.mark.django_db(transaction=True)
def test_a_slow_rate_and_a_short_deadline_end_in_time():
    with scripted_upstream(always_good) as upstream:
        source = make_source(
            upstream.url, stop=5, limits={"per_second": 0.01, "deadline_seconds": 3.0}
        )
        began = time.monotonic()
        run = drive(start(source))
    assert time.monotonic() - began < 15  # the next slot is 100 s away
    assert (run.state, len(upstream.seen)) == (RunState.INCOMPLETE, 1)


@pytest.mark.django_db(transaction=True)
def test_a_large_answer_does_not_cost_the_lease_while_it_is_read(settings, monkeypatch):
    settings.LEASE_SECONDS = 3
    real = Classifier.classify

    def classify_slowly(self: Classifier, reply: Reply) -> Verdict:
        time.sleep(5)
        return real(self, reply)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response([{"id": number, "text": "x" * 200} for number in range(2_000)])

    monkeypatch.setattr(Classifier, "classify", classify_slowly)
    is_over = threading.Event()

    def scan() -> None:
        while not is_over.wait(0.2):
            ledger.release_expired(run.pk)
        connections.close_all()

    with scripted_upstream(answer) as upstream:
        run = start(make_source(upstream.url, stop=1))
        scanner = threading.Thread(target=scan)
        scanner.start()
        try:
            slices.run_slice(run.pk)
        finally:
            is_over.set()
            scanner.join()
    run.refresh_from_db()
    assert run.state == RunState.COMPLETE
    assert len(upstream.seen) == 1

"""What only a server with many writers can break, and what PostgreSQL does in its own way.

Not collected by itself: `test_postgresql.py` runs it in a process whose DATABASE_URL is PostgreSQL
(by hand: `python -m tests.live.postgresql pytest tests/live/postgresql_cases.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from typing import Any

import psycopg
import pytest
from aiohttp import web
from django.conf import settings as django_settings
from django.core.cache import cache
from django.db import OperationalError, connection, connections, transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from ingest import ledger, runs, slices
from ingest.errors import LeaseLost, RunActive
from ingest.models import Bucket, Delivery, ErrorLog, Outbox, Record, Request, Run, Slice
from ingest.outbox import install_triggers
from ingest.outcomes import Outcome, RunState
from ingest.reconcile import reconcile_run
from ingest.selectors import count_outcomes
from search import engines, indexer
from tests.ingest.factories import (
    RecordFactory,
    ServerErrorFactory,
    SourceFactory,
    UserFactory,
    configure,
)
from tests.ingest.test_ledger import answer, record
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.upstream import scripted_upstream
from tests.live.stack import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def plan(rows: int) -> Run:
    plan = {"type": "range", "name": "id", "start": 1, "stop": rows}
    source = SourceFactory(configuration=configure("things", plan=plan), slug="things")
    return runs.create_run(source, user=source.owner)


def open_slice(run: Run) -> Slice:
    held = ledger.open_slice(run.pk, worker="test", at_most=9)
    assert held is not None
    return held


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Runs functions in threads that close their connections; waits for all of them at the end."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        yield lambda function, *args: pool.submit(run, function, *args)


def meet(barrier: threading.Barrier) -> None:
    try:
        barrier.wait(20)
    except threading.BrokenBarrierError:
        raise TimeoutError("the other thread did not come") from None


def wait_for_waiters(count: int) -> None:
    """Until that many sessions of this database wait for a lock."""
    wait_for(f"{count} sessions that wait", lambda: count_waiters() >= count, timeout_seconds=20)


def count_waiters() -> int:
    # Not by pg_stat_activity, which stands still within a transaction. Who waits for a row or for
    # another's end holds the table, which tells the database.
    return int(
        ask_server(
            "SELECT count(DISTINCT waiting.pid) FROM pg_locks waiting JOIN pg_locks held"
            " USING (pid) JOIN pg_database ON pg_database.oid = held.database"
            " WHERE NOT waiting.granted AND datname = current_database()"
        )
    )


def ask_server(statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return str(cursor.fetchone()[0])


# ---- the connection


def test_these_tests_run_on_postgresql():
    assert connection.vendor == "postgresql"
    assert ask_server("SHOW server_encoding") == "UTF8"


def test_a_session_is_in_utc_wherever_its_server_lives():
    assert ask_server("SHOW timezone") == "UTC"
    now = timezone.now()
    row = RecordFactory(occurred_at=now)
    row.refresh_from_db()
    assert row.occurred_at == now
    assert row.occurred_at.utcoffset() == timedelta(0)


def test_a_worker_that_stalls_inside_a_transaction_is_ended_with_its_lease():
    lease = f"{django_settings.LEASE_SECONDS}s"
    assert ask_server("SHOW idle_in_transaction_session_timeout") == lease
    assert ask_server("SHOW lock_timeout") == "30s"


def test_a_server_that_vanished_is_not_waited_for_longer_than_locks_are():
    connection.ensure_connection()
    given = connection.connection.info.get_parameters()
    silence, repeated, times, unheard = (
        int(given[name])
        for name in (
            *("keepalives_idle", "keepalives_interval", "keepalives_count"),
            "tcp_user_timeout",
        )
    )
    assert silence + repeated * times <= 30
    assert unheard <= 30_000


# ---- writers side by side


def test_two_slices_claim_disjoint_rows_without_waiting_for_each_other():
    run = plan(20)
    first, second = open_slice(run), open_slice(run)
    with threads(1) as submit, transaction.atomic():
        mine = ledger.claim_requests(first, limit=8)
        # The other one must not wait for our transaction, which ends after it.
        others = submit(lambda: ledger.claim_requests(second, limit=8)).result(timeout=5)
    assert len(mine) == len(others) == 8
    assert not {row.pk for row in mine} & {row.pk for row in others}


def test_every_row_is_claimed_exactly_once_by_racing_slices():
    run = plan(300)
    leases = [open_slice(run) for _ in range(4)]

    def claim_all(held: Slice) -> list[int]:
        claimed: list[int] = []
        while rows := ledger.claim_requests(held, limit=7):
            claimed += [row.pk for row in rows]
        return claimed

    with threads(4) as submit:
        parts = [submit(claim_all, held) for held in leases]
    claimed = [pk for part in parts for pk in part.result()]
    # A slice that met only locked rows gave up early; what it left, the others took.
    assert len(claimed) == len(set(claimed)) == 300


def test_flushes_of_the_same_keys_in_opposite_order_do_not_deadlock_and_count_once():
    rounds, keys = 15, [f"key-{number}" for number in range(40)]
    run = plan(2 * rounds)
    leases = [open_slice(run) for _ in range(2)]
    rows = [ledger.claim_requests(held, limit=rounds) for held in leases]
    barrier = threading.Barrier(2)

    def flush_all(number: int) -> None:
        ordered = keys if number else keys[::-1]
        for turn, row in enumerate(rows[number]):
            meet(barrier)
            fresh = [f"{turn}-{key}" for key in ordered]
            # Half of the keys are new in this round, half are changed.
            records = [
                record(key, position, content_hash=f"{turn}{number}", title=f"{turn}{number}")
                for position, key in enumerate([*ordered, *fresh])
            ]
            ledger.flush_answers(
                leases[number],
                [answer(row, Outcome.DELIVERED, *records)],
                source_id=run.source_id,
            )

    with threads(2) as submit:
        results = [submit(flush_all, number) for number in range(2)]
    for result in results:
        result.result()
    run.refresh_from_db()
    stored = Record.objects.count()
    assert stored == run.records_new == len(keys) * (rounds + 1)
    assert Delivery.objects.count() == 2 * rounds * 2 * len(keys)
    assert sum(Bucket.objects.values_list("sends", flat=True)) == 2 * rounds
    assert Outbox.objects.filter(kind="record").count() == stored


@pytest.mark.parametrize("control", ["cancel", "advance", "take_over", "progress"])
def test_control_of_a_run_during_a_flush_does_not_deadlock(control: str):
    run = plan(6)
    held = open_slice(run)
    rows = ledger.claim_requests(held, limit=3)
    now = timezone.now()
    minute = now.replace(second=0, microsecond=0)
    bucket = Bucket.objects.create(
        source_id=run.source_id, run=run, started_at=minute, outcome=Outcome.DELIVERED,
        sends=0, records=0, latency_ms_sum=0, latency_ms_max=0,
    )  # fmt: skip
    answers = [answer(row, Outcome.DELIVERED, record(row.key), answered_at=minute) for row in rows]

    def flush() -> str:
        try:
            ledger.flush_answers(held, answers, source_id=run.source_id)
        except LeaseLost:
            return "lost"
        return "written"

    def interfere() -> None:
        if control == "cancel":
            runs.cancel_run(run.pk, by="test")
        elif control == "advance":
            runs.advance_run(run.pk)
        elif control == "progress":
            runs.note_step(run.pk, "at work")
        else:
            open_slice(run)

    if control == "advance":
        Run.objects.filter(pk=run.pk).update(started_at=now, deadline_at=now - timedelta(minutes=1))
    if control == "take_over":
        Slice.objects.update(expires_at=now - timedelta(seconds=1))
    with threads(2) as submit:
        with transaction.atomic():
            # The flush comes to a stop in its middle, holding rows of the ledger.
            Bucket.objects.select_for_update().get(pk=bucket.pk)
            flushed = submit(flush)
            wait_for_waiters(1)
            controlled = submit(interfere)
            wait_for_waiters(2)
        controlled.result(timeout=20)
        assert flushed.result(timeout=20) == "written"
    assert count_outcomes(run)["delivered"] == 3
    run.refresh_from_db()
    if control in ("cancel", "advance"):
        assert run.is_finished
        assert (run.delivered_count, run.cancelled_count, run.planned_count) == (3, 3, 0)


def test_of_two_starts_at_the_same_time_one_wins_and_the_other_names_it():
    source = SourceFactory()
    barrier = threading.Barrier(2)

    def try_start() -> int | str:
        meet(barrier)
        try:
            return runs.create_run(source, user=None).pk
        except RunActive as error:
            return f"active: {error.run_id}"

    with threads(2) as submit:
        results = [submit(try_start) for _ in range(2)]
    found = {type(result.result()): result.result() for result in results}
    assert found == {int: found[int], str: f"active: {found[int]}"}


# ---- the outbox


def noted(kind: str = "record") -> set[int]:
    return set(Outbox.objects.filter(kind=kind).values_list("object_id", flat=True))


@pytest.fixture
def records() -> list[Record]:
    source = SourceFactory()
    made: list[Record] = [RecordFactory(source=source) for _ in range(5)]
    Outbox.objects.all().delete()
    return made


def _copy(records: list[Record]) -> None:
    columns = "source_id, key, title, body, data, occurred_at, occurred_at_noted, content_hash"
    columns += ", outcome, stored_at, updated_at"
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ingest_record ({columns}) FROM STDIN") as copy,
    ):
        now = timezone.now()
        copy.write_row(
            (records[0].source_id, "copied", "t", "b", "{}", now, "", "", "delivered", now, now)
        )


def _execute(statement: str) -> Callable[[list[Record]], None]:
    def run(records: list[Record]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


@pytest.mark.parametrize(
    "write",
    [
        _copy,
        _execute("UPDATE ingest_record SET title = 'x'"),
        _execute("DELETE FROM ingest_record"),
        _execute("TRUNCATE ingest_record"),
        _execute("TRUNCATE ingest_source CASCADE"),
        _execute(
            "MERGE INTO ingest_record r USING (VALUES (1)) AS v (n) ON TRUE"
            " WHEN MATCHED THEN UPDATE SET body = 'merged'"
        ),
        _execute("WITH gone AS (DELETE FROM ingest_record RETURNING id) SELECT count(*) FROM gone"),
        lambda records: records[0].source.delete(),
    ],
    ids=["copy", "update", "delete", "truncate", "truncate cascade", "merge", "with", "orm"],
)
def test_each_way_of_writing_is_noted(records: list[Record], write: Callable[..., None]):
    before = {row.pk for row in records}
    write(records)
    after = set(Record.objects.values_list("pk", flat=True))
    expected = after - before if len(after) > len(before) else before
    assert noted() == expected


def test_a_truncate_that_is_rolled_back_takes_its_notes_back(records: list[Record]):
    with transaction.atomic():
        _execute("TRUNCATE ingest_record")(records)
        assert len(noted()) == 5
        transaction.set_rollback(True)
    assert noted() == set()
    assert Record.objects.count() == 5


def test_errors_that_are_truncated_are_noted():
    error = ServerErrorFactory()
    Outbox.objects.all().delete()
    _execute("TRUNCATE ingest_errorlog")([])
    assert noted("error") == {error.pk}


def test_what_a_partial_rollback_took_back_is_not_noted(records: list[Record]):
    with transaction.atomic():
        Record.objects.filter(pk=records[0].pk).update(title="kept")
        with transaction.atomic():
            Record.objects.filter(pk=records[1].pk).update(title="undone")
            transaction.set_rollback(True)
    assert noted() == {records[0].pk}


def test_a_version_token_is_never_repeated():
    row = RecordFactory()
    seen = set()
    for number in range(300):
        if number % 50 == 0:
            # A session that begs for repetition.
            _execute("SELECT setseed(0.5)")([])
        Record.objects.filter(pk=row.pk).update(title=str(number))
        seen.add(Outbox.objects.get(object_id=row.pk, kind="record").version)
    assert len(seen) == 300
    RecordFactory.create_batch(50, source=row.source)
    with transaction.atomic():  # one clock reading for all of them would be now()
        Record.objects.update(body="all at once")
    versions = Outbox.objects.filter(kind="record").values_list("version", flat=True)
    assert len(set(versions)) == 51
    assert min(versions) < 0 < max(versions)  # all 64 bits are used


def test_a_writer_beside_an_installation_of_the_triggers_is_noted():
    source = SourceFactory()
    with threads(1) as submit:
        with transaction.atomic():
            install_triggers()
            written = submit(lambda: RecordFactory(source=source).pk)
            wait_for_waiters(1)
        pk = written.result(timeout=10)
    assert noted() == {pk}


@pytest.fixture
def index(tmp_path: Any, settings: Any) -> Iterator[None]:
    """An empty index of the embedded engine."""
    settings.SEARCH_INDEX_DIR = tmp_path / "index"
    engines._make_engine.cache_clear()
    indexer.drain_everything()
    yield
    engines._make_engine.cache_clear()


def test_draining_while_the_same_rows_change_does_not_deadlock(index: None, records: list[Record]):
    first, last = records[0], records[-1]
    Record.objects.filter(pk=first.pk).update(title="one")
    Record.objects.filter(pk=last.pk).update(title="one")
    has_begun, may_go_on = threading.Event(), threading.Event()

    def change_backwards() -> None:
        with transaction.atomic():
            Record.objects.filter(pk=last.pk).update(title="two")
            has_begun.set()
            may_go_on.wait(10)
            Record.objects.filter(pk=first.pk).update(title="two")

    with threads(2) as submit:
        changed = submit(change_backwards)
        has_begun.wait(10)
        drained = submit(indexer.drain_batch)
        while not (drained.done() or count_waiters()):  # for the note that is being changed
            time.sleep(0.02)
        may_go_on.set()
        changed.result(timeout=20)
        drained.result(timeout=20)
    indexer.drain_everything()
    assert noted() == set()
    assert engines.get_engine().open().find_present([f"record-{first.pk}"])


# ---- values


def test_numbers_come_back_as_they_came_also_beyond_double_precision():
    data = {
        "whole": 2**80 + 1,
        "huge": 10**300 + 7,
        "float": 0.1 + 0.2,
        "large": 1e22,
        "largest": 1.7976931348623157e308,
        "smallest": 5e-324,
        "minus": -0.0,
        "deep": [[{"n": 12345678901234567890}]],
    }
    row = RecordFactory(data=data)
    row.refresh_from_db()
    # jsonb keeps the decimal number and forgets its spelling: 1e22 is a whole number afterwards.
    assert isinstance(row.data["large"], int)
    assert float(row.data.pop("largest")) == data.pop("largest")
    assert row.data == data


def test_the_same_record_spelled_differently_is_unchanged():
    run = plan(2)
    held = open_slice(run)
    first, second = ledger.claim_requests(held, limit=2)
    for row, data in (
        (first, {"b": 1, "aa": {"y": 2, "x": 1e22}}),
        (second, {"aa": {"x": 1e22, "y": 2}, "b": 1}),
    ):
        ledger.flush_answers(
            held,
            [answer(row, Outcome.DELIVERED, record("a", data=data))],
            source_id=run.source_id,
        )
        if row is first:
            Outbox.objects.all().delete()
    run.refresh_from_db()
    assert (run.records_new, run.records_unchanged) == (1, 1)
    assert noted() == set()


def test_null_characters_of_an_upstream_never_reach_the_database():
    async def play(request: web.Request) -> web.Response:
        number = request.path.rpartition("/")[2]
        bodies = {
            "1": b'{"id": 1, "name": "a\\u0000b"}',
            "2": b'{"id": "a\\u0000b"}',
            "3": b'{"id": 3, "a\\u0000b": 1}',
            "4": b"<html>\x00</html>",
            "5": b'{"id": 5, "name": "\\ud800"}',
            "6": b'{"id": 6, "n": 1e999}',
        }
        if number == "7":
            return web.Response(status=500, body=b"\x00 broken \x00")
        if number in bodies:
            return web.Response(body=bodies[number], content_type="application/json")
        return good(request)

    with scripted_upstream(play) as upstream:
        run = drive(start(make_source(upstream.url, stop=8, retry={"attempts": 1, "sweeps": 0})))
    outcomes = count_outcomes(run)
    assert run.state == RunState.INCOMPLETE
    assert (outcomes["malformed"], outcomes["failed"], outcomes["delivered"]) == (6, 1, 1)
    assert reconcile_run(run).verdict["books_balance"]


LISTS = {
    "/api/runs/": ("source", "state", "page", "size"),
    "/api/records/": ("source", "key", "outcome", "status", "since", "cursor", "ordering"),
    "/api/errors/": ("source", "run", "error_type", "outcome", "status", "until", "cursor"),
    "/api/jobs/": ("kind", "state"),
    "/api/search/": ("q", "kind", "source", "outcome", "status", "since", "sort", "cursor"),
    "/search/": ("q", "source", "kind", "cursor"),
    "/runs/": ("source", "state", "sort", "page"),
    "/result/": ("kind", "sort"),
    "/sources/": ("sort", "page", "q"),
}


@pytest.mark.parametrize("path", LISTS)
def test_a_parameter_that_no_column_can_hold_is_no_server_error(index: None, path: str):
    person = UserFactory(is_staff=True, is_superuser=True)
    client = Client(raise_request_exception=False)
    client.force_login(person)
    for name, bad in product(LISTS[path], ("a\x00b", "\ud800", "9" * 40, "-1", "1e400")):
        encoded = bad.encode("utf-8", "surrogatepass")
        status = client.get(path, query_params={name: encoded}).status_code
        assert status < 500, (name, bad, status)
    assert not ErrorLog.objects.filter(status_code=500).exists()


def test_an_address_that_no_column_can_hold_is_not_found():
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(UserFactory())
    for kind in ("sources", "records", "runs"):
        for bad in ("9" * 40, "-1", "a%00b", "%F0%9F%92%A9" * 50):
            status = client.get(f"/api/{kind}/{bad}/").status_code
            assert status in (400, 404), (kind, bad, status)


# ---- a database that goes away


def test_a_slice_leaves_no_connection_behind():
    async def play(request: web.Request) -> web.Response:
        return good(request)

    with scripted_upstream(play) as upstream:
        drive(start(make_source(upstream.url)))
    cache.clear()
    # What a closed connection had at the server ends a moment after it.
    wait_for("the one that asks to be alone", lambda: count_sessions() == 1, timeout_seconds=10)


def count_sessions() -> int:
    return int(
        ask_server(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend'"
        )
    )


def test_sessions_that_are_ended_in_mid_run_do_not_end_the_run(settings: Any):
    settings.LEASE_SECONDS = 3  # a lease that could not be given back runs out
    parameters = connection.get_connection_params()
    address = {name: parameters[name] for name in ("dbname", "user", "host")}
    is_over = threading.Event()
    kills: list[int] = []

    def kill_sessions() -> None:
        with psycopg.connect(**address, autocommit=True) as killer:
            while len(kills) < 6 and not is_over.wait(0.4):
                done = killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )
                if ended := len(done.fetchall()):
                    kills.append(ended)

    async def play(request: web.Request) -> web.Response:
        return good(request)

    with scripted_upstream(play) as upstream:
        run = start(make_source(upstream.url, stop=200, limits={"per_second": 60}))
        with threads(1) as submit:
            killed = submit(kill_sessions)
            try:
                ended = work_through(run)
            finally:
                is_over.set()
            killed.result()
    assert len(kills) >= 3
    assert ended.state == RunState.COMPLETE
    assert count_outcomes(ended)["delivered"] == Record.objects.count() == 200
    assert not ErrorLog.objects.exists()
    assert sum(Bucket.objects.values_list("sends", flat=True)) == 200
    # What was answered but not yet written was asked again, and no more than that: writing begins
    # half a second after an answer, and takes its time.
    assert len(upstream.seen) <= 200 + 60 * len(kills)


def work_through(run: Run) -> Run:
    """What Celery does: a task that fails ends with its connection; the next one comes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            slices.run_slice(run.pk)
            found = Run.objects.get(pk=run.pk)
            if found.is_finished:
                return found
        except OperationalError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise TimeoutError(f"run {run.pk} is not finished; {Request.objects.count()}")

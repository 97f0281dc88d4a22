"""What a run left behind, read from outside and compared with the upstream's own log."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import dj_database_url
import psutil
import psycopg

from ingest.outcomes import FINAL_STATES, Outcome
from portal.processes.ownership import is_dead
from tests.faults.upstream import Service
from tests.live.stack import Stack, wait_for

Row = tuple[Any, ...]
# Even a lease of three seconds lasts so long after a kill: each flush, two a second, renews it.
SURE_SECONDS = 2.0


class Database:
    """Reads a portal's tables in sessions of its own, which end at once."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def sqlite_path(self) -> str:
        return str(dj_database_url.parse(self.url)["NAME"])

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def read(self, statement: str, *values: Any) -> list[Row]:
        """All rows; `%s` stands for a value on either database."""
        if self.is_sqlite:
            address = f"file:{quote(self.sqlite_path)}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
                return connection.execute(statement.replace("%s", "?"), values).fetchall()
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> Any:
        """The first value of the first row."""
        return self.read(statement, *values)[0][0]

    def state_of(self, run: int) -> str:
        return str(self.one("SELECT state FROM ingest_run WHERE id = %s", run))


@dataclass(frozen=True, slots=True)
class Leases:
    """Who worked on a run in the moment before a blow: the worker of each slice."""

    at: float
    workers: dict[int, str]


def read_leases(database: Database, run: int) -> Leases:
    at = time.monotonic()
    rows = database.read("SELECT id, worker FROM ingest_slice WHERE run_id = %s", run)
    return Leases(at, dict(rows))


def count_unwritten(
    database: Database, run: int, service: Service, *, before: Leases
) -> Counter[int]:
    """By row: requests that the upstream has received and dead or paused slices have not written.

    Only rows that such a slice holds are looked at: until its lease is over nobody touches them.
    Raises TimeoutError where that may have been `before` they were looked at.
    """
    found = _look_for_unwritten(database, run, service)
    left = read_leases(database, run)
    lost = [worker for each, worker in before.workers.items() if each not in left.workers]
    if left.at - before.at > SURE_SECONDS and any(map(is_lifeless, lost)):
        raise TimeoutError("what a dead worker had not written was looked at too late")
    return found


def _look_for_unwritten(database: Database, run: int, service: Service) -> Counter[int]:
    earlier: list[Row] | None = None
    looked_at = 0.0

    def look() -> list[Counter[int]]:
        nonlocal earlier, looked_at
        now = time.time()
        # What the dead worker's last packets and its last COMMIT bring may be still on its way.
        held = [
            (int(key), attempts, service.turns[int(key)])
            for key, attempts, worker in database.read(
                "SELECT r.key, r.attempts, s.worker FROM ingest_request r"
                " JOIN ingest_slice s ON s.id = r.slice_id WHERE s.run_id = %s ORDER BY r.id",
                run,
            )
            if is_lifeless(worker)
        ]
        is_quiet = held == earlier and service.ticks[0] > looked_at
        earlier, looked_at = [*held], now
        found = Counter({key: sends - attempts for key, attempts, sends in held})
        return [+found] if is_quiet else []

    return wait_for("quiet after a kill", look)[0]


def is_lifeless(worker: str) -> bool:
    """Whether the process of `host:pid`, as a slice names it, is no more or does not move."""
    try:
        process = psutil.Process(int(worker.rpartition(":")[2]))
        return is_dead(process) or process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True


def check_books(
    stack: Stack,
    database: Database,
    run: int,
    service: Service,
    *,
    unwritten: Counter[int] | None = None,
    resent_at_most: int = 0,
) -> None:
    """Every account of the finished run tells the same story, the upstream's included.

    `unwritten` is what `count_unwritten` told after the kills, the highest of each row;
    `resent_at_most` more may have been sent again where nobody can tell what was written.
    """
    shown = stack.read_run(run)
    books = stack.reconcile(run)
    _check_ledger(database, run, service, shown, books)
    repeated = _find_repeated(database, run, service)
    needless = repeated - (unwritten or Counter())
    assert needless.total() <= resent_at_most, f"sent again without need: {needless}"
    _check_records(database, run, service, shown, books)
    _check_roll_ups(database, run)
    _check_events(database, run, shown)
    _check_index(stack, database, run, service)


def _check_ledger(
    database: Database, run: int, service: Service, shown: dict[str, Any], books: dict[str, Any]
) -> None:
    assert shown["state"] in FINAL_STATES
    last = service.last_answers
    answers = Counter(answer.outcome.value for answer in last.values())
    told = {outcome: count for outcome, count in shown["outcomes"].items() if count}
    assert told == dict(answers)
    assert sum(shown["outcomes"].values()) == shown["planned"] == service.count
    assert (books["planned"], books["unknown"]) == (service.count, 0)
    assert books["outcomes"] == shown["outcomes"]
    is_whole = set(answers) == {Outcome.DELIVERED.value}
    assert shown["state"] == ("complete" if is_whole else "incomplete")
    rows = database.read(
        "SELECT key, outcome, status_code, record_count, due_at, slice_id FROM ingest_request"
        " WHERE run_id = %s",
        run,
    )
    assert len(rows) == service.count
    assert {int(key): tuple(rest) for key, *rest in rows} == {
        number: (answer.outcome.value, answer.status, len(answer.keys), None, None)
        for number, answer in last.items()
    }
    assert database.one("SELECT count(*) FROM ingest_slice WHERE run_id = %s", run) == 0
    gaps = {int(gap["key"]): gap["outcome"] for gap in books["missing"]}
    assert gaps == {
        number: answer.outcome.value
        for number, answer in last.items()
        if answer.outcome != Outcome.DELIVERED
    }


def _find_repeated(database: Database, run: int, service: Service) -> Counter[int]:
    """By row: how much more often the upstream was asked than the ledger tells."""
    rows = database.read("SELECT key, attempts FROM ingest_request WHERE run_id = %s", run)
    assert all(attempts >= 1 for _, attempts in rows)
    repeated = Counter(service.turns)
    repeated.subtract({int(key): attempts for key, attempts in rows})
    assert min(repeated.values()) >= 0, "the ledger tells of sends that never were"
    return +repeated


def _check_records(
    database: Database, run: int, service: Service, shown: dict[str, Any], books: dict[str, Any]
) -> None:
    delivered = Counter(key for answer in service.last_answers.values() for key in answer.keys)
    sent_ever = {key for answer in service.log for key in answer.keys}
    assert sent_ever == set(delivered)  # the upstream never takes back what it once gave
    stored = database.read(
        "SELECT key, title FROM ingest_record WHERE source_id ="
        " (SELECT source_id FROM ingest_run WHERE id = %s)",
        run,
    )
    assert Counter(key for key, _ in stored) == Counter(set(delivered))
    assert all(title == f"{service.name} {key}" for key, title in stored)
    deliveries = database.read(
        "SELECT r.key, d.position, d.record_key FROM ingest_delivery d"
        " JOIN ingest_request r ON r.id = d.request_id WHERE d.run_id = %s",
        run,
    )
    assert Counter((int(key), record) for key, _, record in deliveries) == Counter(
        (number, key) for number, answer in service.last_answers.items() for key in answer.keys
    )
    assert books["distinct_keys"] == books["stored"] == len(delivered)
    assert books["duplicates"] == sum(delivered.values()) - len(delivered)
    assert books["not_stored"] == []
    counts = shown["records"]
    assert (counts["new"], counts["changed"]) == (len(delivered), 0)


def _check_roll_ups(database: Database, run: int) -> None:
    buckets = database.read(
        "SELECT outcome, sum(sends), sum(records) FROM ingest_bucket WHERE run_id = %s"
        " GROUP BY outcome",
        run,
    )
    errors = database.read(
        "SELECT outcome, count(*) FROM ingest_errorlog WHERE run_id = %s GROUP BY outcome", run
    )
    attempts = database.one("SELECT sum(attempts) FROM ingest_request WHERE run_id = %s", run)
    sends = {outcome: int(count) for outcome, count, _ in buckets}
    assert sum(sends.values()) == attempts
    assert {k: v for k, v in sends.items() if k != Outcome.DELIVERED} == dict(errors)
    hours = database.read(
        "SELECT outcome, sum(sends), sum(records) FROM analytics_hourbucket WHERE source_id ="
        " (SELECT source_id FROM ingest_run WHERE id = %s) GROUP BY outcome",
        run,
    )
    assert sorted(hours) == sorted(buckets)


def _check_events(database: Database, run: int, shown: dict[str, Any]) -> None:
    events = database.read(
        "SELECT seq, state FROM ingest_runevent WHERE run_id = %s ORDER BY seq", run
    )
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    final = [state for _, state in events if state in FINAL_STATES]
    assert final == [shown["state"]] == [events[-1][1]]
    job = database.read("SELECT state, done, total FROM ingest_job WHERE run_id = %s", run)
    assert job == [("finished", shown["planned"], shown["planned"])]


def _check_index(stack: Stack, database: Database, run: int, service: Service) -> None:
    """Every record and error of the run is found, and nothing else of the source."""

    def is_drained() -> bool:
        return bool(database.one("SELECT count(*) FROM ingest_outbox") == 0)

    wait_for("an empty outbox", is_drained, timeout_seconds=90)
    books = stack.reconcile(run)
    assert (books["indexed"], books["not_indexed"]) == (books["stored"], [])
    found = stack.api("GET", f"/api/search/?q=&source={service.name}").body
    errors = database.one("SELECT count(*) FROM ingest_errorlog WHERE run_id = %s", run)
    assert found["total"] == books["stored"] + errors
    assert found["coverage"]["pending"] == found["coverage"]["parked"] == 0

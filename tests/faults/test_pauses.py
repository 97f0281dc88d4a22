"""A worker that stands still past its lease, and messages that come too often."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.faults.books import Database, count_unwritten, read_leases
from tests.faults.site import Site
from tests.faults.upstream import UNRULY

pytestmark = pytest.mark.faults

CONCURRENCY = 20


def holds_write_lock(database: Database) -> bool:
    """Whether somebody is inside a transaction: SQLite has one writer, and all wait for it."""
    if not database.is_sqlite:
        return False
    with closing(sqlite3.connect(database.sqlite_path, timeout=0.1)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


def test_a_worker_that_was_paused_past_its_lease_neither_writes_nor_sends_when_it_returns(
    site: Site,
) -> None:
    service = site.upstream.open_service(
        "paused", 2_000, seed=1, troubles=UNRULY, latency_seconds=0.02
    )
    run = site.start_run(service, limits={"concurrency": CONCURRENCY})
    site.wait_for_sends(service, 300)
    paused = site.wait_for_slice(run)
    before = read_leases(site.database, run)
    site.pause(paused)
    while holds_write_lock(site.database):  # let it leave its transaction
        site.resume(paused)
        before = read_leases(site.database, run)
        site.pause(paused)
    unwritten = count_unwritten(site.database, run, service, before=before)
    site.wait_for_sends(service, service.sends + 300)
    # Between two slices nobody works on it.
    site.wait_for("another worker", lambda: site.find_fetcher(run) not in (None, paused))
    site.resume(paused)
    site.wait_for_end(run)
    # What had left the program when it was stopped, but not the event loop's buffers.
    site.check_books(run, service, unwritten=unwritten, resent_at_most=CONCURRENCY)


def test_a_hundred_messages_at_once_are_as_good_as_one(site: Site) -> None:
    service = site.upstream.open_service("messages", 600, seed=2, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 300})
    for _ in range(100):
        site.send("ingest.tasks.run_slice", run, queue="fetch")
    site.wait_for_sends(service, 200)
    for _ in range(100):
        site.send("ingest.tasks.run_slice", run, queue="fetch")
    site.wait_for_end(run)
    sends = service.sends
    for _ in range(10):
        site.send("ingest.tasks.run_slice", run, queue="fetch")
    site.wait_for("an empty queue", lambda: site.count_messages("fetch") == 0)
    site.check_books(run, service)
    assert service.sends == sends

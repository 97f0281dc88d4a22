"""A database that is locked, restarted or out of room: the run waits and goes on."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.site import Site
from tests.faults.upstream import UNRULY, Service
from tests.live.postgresql import Cluster

pytestmark = pytest.mark.faults

# Longer than anybody waits for a lock (30 s).
LOCKED_SECONDS = 34
# A slice keeps about a second of work at hand.
ONE_SLICE = 1_100
# Enough for the logs, not enough for what a run writes.
ROOM_BYTES = 500_000


def find_held_and_unsent(site: Site, run: int, service: Service) -> list[int]:
    """Rows that a slice has at hand and has not sent."""
    held = site.database.read(
        "SELECT key FROM ingest_request WHERE run_id = %s AND slice_id IS NOT NULL", run
    )
    return [int(key) for (key,) in held if not service.turns[int(key)]]


@pytest.fixture
def site_with_long_slices(sqlite_site: Site) -> Iterator[Site]:
    with sqlite_site.one_fetcher(SLICE_SECONDS="60"):
        yield sqlite_site


def test_a_run_outlives_a_lock_that_lasts_longer_than_anybody_waits(
    site_with_long_slices: Site,
) -> None:
    site = site_with_long_slices
    service = site.upstream.open_service(
        "locked", 1_500, seed=5, troubles=UNRULY, latency_seconds=0.02
    )
    run = site.start_run(service, limits={"concurrency": 3})
    site.wait_for_sends(service, 100)
    with contextlib.closing(sqlite3.connect(site.database.sqlite_path, timeout=30)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        locked_at = time.monotonic()
        site.wait_for_quiet(service)
        # Not because there was nothing left to send: its lease could not be renewed.
        assert find_held_and_unsent(site, run, service)
        time.sleep(locked_at + LOCKED_SECONDS - time.monotonic())
        somebody.execute("ROLLBACK")
    site.wait_for_end(run)
    site.check_books(run, service, resent_at_most=ONE_SLICE)


def test_a_run_outlives_restarts_of_its_database(postgresql_site: Site, cluster: Cluster) -> None:
    site = postgresql_site
    service = site.upstream.open_service("restarted", 1_500, seed=6, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 400})
    for sends in (300, 700):
        site.wait_for_sends(service, sends)
        cluster.stop(is_crash=True)
        cluster.start()
    site.wait_for_end(run)
    site.check_books(run, service, resent_at_most=2 * ONE_SLICE)


def limit_files(pids: list[int], size: int) -> None:
    """No file of these processes may grow beyond `size` bytes: to them the disk is full."""
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_is_waited_out(sqlite_site: Site) -> None:
    site = sqlite_site
    service = site.upstream.open_service("full", 1_500, seed=7, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 300})
    site.wait_for_sends(service, 300)
    workers = [
        process.pid
        for name in (*site.fetchers, "worker-index")
        for process in (
            psutil.Process(site.stack.processes[name].pid),
            *site.stack.children_of(name),
        )
    ]
    limit_files(workers, ROOM_BYTES)
    try:
        site.wait_for(
            "a word about it",
            lambda: "waits for the database" in "".join(map(site.stack.read_log, site.fetchers)),
        )
        assert not site.is_over(run)
    finally:
        limit_files(workers, resource.RLIM_INFINITY)
    site.wait_for_end(run)
    site.check_books(run, service, resent_at_most=3 * ONE_SLICE)

"""Workers that are asked to stop, and neighbours that are killed."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator

import pytest

from ingest.outcomes import Outcome, RunState
from tests.faults.site import Site
from tests.faults.upstream import UNRULY, Manners
from tests.live.stack import wait_for

pytestmark = pytest.mark.faults

CONCURRENCY = 20


def start_carelessly(site: Site, slug: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        site.stack.start_run(slug)


@pytest.fixture
def patient_site(sqlite_site: Site) -> Iterator[Site]:
    """One fetcher, whose slices last much longer than whoever stops it would wait."""
    with sqlite_site.one_fetcher(SLICE_SECONDS="60", LEASE_SECONDS="60"):
        yield sqlite_site


def stop(site: Site, name: str) -> None:
    """SIGTERM, as systemd and Kubernetes send it; returns when the worker has ended."""
    process = site.stack.processes.pop(name)
    process.terminate()
    process.wait(timeout=60)


def count_held(site: Site, run: int) -> int:
    return int(
        site.database.one(
            "SELECT count(*) FROM ingest_request WHERE run_id = %s AND slice_id IS NOT NULL", run
        )
    )


def test_a_worker_that_is_asked_to_stop_writes_what_came_and_frees_its_rows(
    patient_site: Site,
) -> None:
    site = patient_site
    service = site.upstream.open_service("stopped", 1_500, seed=8, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 300})
    site.wait_for_sends(service, 300)
    stop(site, "worker-fetch")
    assert service.sends < service.count
    assert count_held(site, run) == 0
    site.start_fetcher("standby")
    site.wait_for_end(run)
    site.check_books(run, service)


def test_a_worker_that_waits_for_its_upstream_stops_without_its_answers(patient_site: Site) -> None:
    site = patient_site
    service = site.upstream.open_service("silent", 500, seed=9)
    run = site.start_run(service, limits={"per_second": 100}, request={"timeout_seconds": 120})
    site.wait_for_sends(service, 40)
    site.upstream.is_answering.clear()
    site.wait_for_quiet(service)
    sends = service.sends
    stop(site, "worker-fetch")
    assert service.sends == sends
    assert count_held(site, run) == 0
    site.upstream.is_answering.set()
    site.start_fetcher("standby")
    site.wait_for_end(run)
    site.check_books(run, service, resent_at_most=CONCURRENCY)


def test_a_host_that_asks_for_a_long_pause_keeps_no_worker_from_stopping(
    patient_site: Site,
) -> None:
    site = patient_site
    service = site.upstream.open_service(
        "holding", 100, troubles=((1.0, Manners(Outcome.DELIVERED, (Outcome.REFUSED,))),)
    )
    service.retry_after = 30
    run = site.start_run(service, retry={"cap_seconds": 60})
    site.wait_for("a pause", lambda: site.database.state_of(run) == RunState.WAITING)
    stop(site, "worker-fetch")
    assert count_held(site, run) == 0
    assert not site.is_over(run)


def test_a_run_needs_neither_beat_nor_web_once_it_has_begun(sqlite_site: Site) -> None:
    site = sqlite_site
    service = site.upstream.open_service("alone", 1_500, seed=10, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 400})
    site.wait_for_sends(service, 100)
    site.stack.kill("beat")
    site.stack.kill("web")
    try:
        wait_for("the end of the run", lambda: site.is_over(run))
    finally:
        site.stack.start("web")
        site.stack.start("beat")
    wait_for("the web server", site.stack.is_ready)
    site.check_books(run, service)


def test_a_web_server_killed_while_it_plans_leaves_a_whole_run_or_none(
    postgresql_site: Site,
) -> None:
    site = postgresql_site
    for attempt, delay in enumerate((0.05, 0.3, 0.6)):
        service = site.upstream.open_service(f"planned-{attempt}", 20_000)
        site.create_source(service)
        starter = threading.Thread(target=start_carelessly, args=[site, service.name])
        starter.start()
        time.sleep(delay)
        site.stack.kill("web")
        starter.join()
        runs = site.database.read(
            "SELECT r.id, r.planned_total, (SELECT count(*) FROM ingest_request q WHERE"
            " q.run_id = r.id) FROM ingest_run r JOIN ingest_source s ON s.id = r.source_id"
            " WHERE s.slug = %s",
            service.name,
        )
        assert [(planned, rows) for _, planned, rows in runs] in ([], [(20_000, 20_000)])
        site.stack.start("web")
        wait_for("the web server", site.stack.is_ready)
        for run, _, _ in runs:
            site.stack.api("POST", f"/api/runs/{run}/cancel/")
            site.wait_for_end(run)

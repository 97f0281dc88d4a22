"""Redis is the broker and keeps the budgets; nothing in it is the only copy of anything."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.faults.site import Site
from tests.faults.upstream import UNRULY
from tests.live.stack import ask, wait_for

pytestmark = pytest.mark.faults


def test_a_flush_of_all_databases_in_mid_run_changes_nothing(site: Site) -> None:
    service = site.upstream.open_service("flushed", 600, seed=3, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 150})
    for sends in (100, 250, 400):
        site.wait_for_sends(service, sends)
        with site.connect_redis() as client:
            client.flushall()
    site.wait_for_end(run)
    assert service.count_peak() <= 150
    site.check_books(run, service)


def test_a_run_waits_while_redis_is_away_and_goes_on_when_it_is_back_without_its_data(
    sqlite_site: Site,
) -> None:
    site = sqlite_site
    service = site.upstream.open_service("away", 1_000, seed=4, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 200})
    site.wait_for_sends(service, 300)
    for _ in range(5):
        site.wake()  # a worker dies with messages in its hands, or not at all
    site.stack.kill("redis")
    for folder in site.stack.data_dir.glob("redis-*"):
        shutil.rmtree(folder)
    site.wait_for_quiet(service)
    sends = service.sends
    assert service.sends < service.count
    assert ask(site.stack.port, "/health").status == 200
    time.sleep(10)  # as long as a restart of a machine's Redis with its failover may take
    assert service.sends == sends
    assert not site.is_over(run)
    site.stack.start("redis")
    wait_for("Redis", site.has_redis)
    site.wait_for_end(run)
    assert not [name for name, each in site.stack.processes.items() if each.poll() is not None]
    assert service.count_peak() <= 200
    site.check_books(run, service)

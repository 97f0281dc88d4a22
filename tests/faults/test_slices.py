"""Several slices of one run, each in a worker of its own, some of which are killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.faults.books import count_unwritten, read_leases
from tests.faults.site import FETCHERS, Site
from tests.faults.upstream import UNRULY

pytestmark = pytest.mark.faults

SLICES = {"RUN_SLICES": "3"}


@pytest.fixture
def wide_site(site: Site) -> Iterator[Site]:
    """Three fetchers that may all work on the same run."""
    names = (*FETCHERS, "third")
    for name in (*site.fetchers, "worker-index"):
        site.stack.kill(name)
    site.expire("search:*")
    site.stack.start("worker-index", **SLICES)
    for name in names:
        site.start_fetcher(name, **SLICES)
    yield site
    for name in {*names, "worker-index"} & set(site.stack.processes):
        site.stack.kill(name)
    site.expire("search:*")


def test_of_several_slices_the_killed_ones_lose_nothing(wide_site: Site) -> None:
    site = wide_site
    service = site.upstream.open_service("wide", 3_000, seed=12, troubles=UNRULY)
    run = site.start_run(service, limits={"per_second": 500})
    site.wait_for("several slices", lambda: site.count_slices(run) >= 2)
    unwritten: Counter[int] = Counter()
    for sends in (800, 1_600):
        site.wait_for_sends(service, sends)
        victim = site.wait_for_slice(run)
        before = read_leases(site.database, run)
        site.stack.kill(victim)
        unwritten |= count_unwritten(site.database, run, service, before=before)
        site.start_fetcher(victim, **SLICES)
    site.wait_for_end(run)
    site.check_books(run, service, unwritten=unwritten)
    assert service.count_peak() <= 500

"""How long a kill stops a run under the settings that people have."""

from __future__ import annotations

import time

import pytest

from tests.faults.books import count_unwritten, read_leases
from tests.faults.site import open_site
from tests.faults.upstream import UNRULY
from tests.live.stack import wait_for

pytestmark = pytest.mark.faults

TAKE_OVER_SECONDS = 30


def test_with_the_default_settings_a_killed_run_goes_on_within_half_a_minute(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    default = {"LEASE_SECONDS": "", "SLICE_SECONDS": ""}
    with open_site(tmp_path_factory.mktemp("default"), **default) as site:
        service = site.upstream.open_service("default", 900, seed=11, troubles=UNRULY)
        run = site.start_run(service, limits={"per_second": 200})
        wait_for("requests", lambda: service.sends >= 300)
        before = read_leases(site.database, run)
        for name in (*site.fetchers, "worker-index"):
            site.stack.kill(name)
        killed_at = time.time()
        unwritten = count_unwritten(site.database, run, service, before=before)
        sends = service.sends  # those that it has noted since the kill included
        site.stack.start("worker-fetch")
        site.stack.start("worker-index")
        wait_for("the end of the run", lambda: site.is_over(run))
        site.check_books(run, service, unwritten=unwritten)
        assert service.log[sends].at - killed_at < TAKE_OVER_SECONDS

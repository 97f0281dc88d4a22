"""Limits as the server counts them: real worker processes, a real Redis, servers of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.live.limited import Limit, Traffic, describe_source, serve_limited
from tests.live.stack import Stack, run_stack

pytestmark = [pytest.mark.live, pytest.mark.alone]

SECONDS = 28.0
WARM_UP_SECONDS = 18.0


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("limits")
    with run_stack(folder, FETCH_PROCESSES="6", RUN_SLICES="2") as running:
        yield running


def start(stack: Stack, slug: str, address: str, **limits: object) -> int:
    created = stack.api(
        "POST", "/api/sources/", describe_source(slug, address, count=20_000, **limits)
    )
    assert created.status == 201, created.body
    return stack.start_run(slug)


def watch(stack: Stack, runs: list[int], addresses: list[str]) -> list[Traffic]:
    """The traffic of some time; the runs are cancelled then."""
    time.sleep(SECONDS)
    seen = [Traffic.of(address) for address in addresses]
    for run in runs:
        stack.api("POST", f"/api/runs/{run}/cancel/")
    return seen


def test_limits_hold_over_workers_and_runs_as_the_server_counts(workers: Stack) -> None:
    """Two runs on one host, which share its 20/s, and a host for each other kind of limit."""
    with serve_limited(*[Limit()] * 4) as addresses:
        shared, window, batch, quota = addresses
        runs = [
            start(workers, "one", shared, per_second=20),
            start(workers, "two", shared, per_second=50),
            start(workers, "window", window, window={"requests": 30, "seconds": 4}),
            start(workers, "batch", batch, batch={"requests": 5, "pause_seconds": 1}),
            start(workers, "quota", quota, per_second=30, quota={"requests": 90, "per": "month"}),
        ]
        seen = watch(workers, runs, addresses)
    # What the server noted late by its own fault is not held against us.
    assert seen[0].peak(1.0 - seen[0].lag) <= 20
    assert seen[0].rate() >= 0.85 * 20
    assert seen[1].peak(4.0 - seen[1].lag) <= 30
    assert len(seen[1].all) >= 4 * 30
    assert seen[2].largest_group(1.0 - seen[2].lag) == 5
    assert len(seen[3].all) == 90


def test_hidden_limits_are_found_and_used(workers: Stack) -> None:
    """Nothing is configured; each run has two slices. Another host is not slowed down by it."""
    hidden = Limit("sliding", requests=20), Limit("bucket", requests=20, burst=20)
    with serve_limited(*hidden, Limit()) as addresses:
        runs = [
            start(workers, "sliding", addresses[0]),
            start(workers, "bucket", addresses[1]),
            start(workers, "open", addresses[2], per_second=60),
        ]
        *learned, beside = watch(workers, runs, addresses)
    for traffic in learned:
        steady = traffic.since(WARM_UP_SECONDS)
        assert steady.rate() >= 0.75 * 20
        # It is still learning; bench/limits.py looks longer.
        assert steady.refused_share <= 0.06
    assert beside.peak(1.0 - beside.lag) <= 60
    assert beside.rate() >= 0.75 * 60

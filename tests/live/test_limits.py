"""Limits as the server counts them: real worker processes, a real Redis, servers of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.live.limited import Limit, Traffic, describe_source, serve_limited
from tests.live.stack import Stack, make_slug, run_stack, wait_for

pytestmark = [pytest.mark.live, pytest.mark.alone]

SECONDS = 20.0
# What is learned is looked at over a span, once the storm of the first seconds is over.
WARM_UP_SECONDS, SPAN_SECONDS = 10.0, 10.0


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("limits")
    with run_stack(folder, FETCH_PROCESSES="6", RUN_SLICES="2") as running:
        yield running


def start(stack: Stack, name: str, address: str, **limits: object) -> int:
    slug = make_slug(name)
    created = stack.api(
        "POST", "/api/sources/", describe_source(slug, address, count=20_000, **limits)
    )
    assert created.status == 201, created.body
    return stack.start_run(slug)


def cancel(stack: Stack, runs: list[int]) -> None:
    for run in runs:
        stack.api("POST", f"/api/runs/{run}/cancel/")


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
        time.sleep(SECONDS)
        # How soon a run begins is a matter of the machine; its limits are counted from then on.
        for address, requests in ((window, 4 * 30), (quota, 90)):
            wait_for(f"{requests} requests", partial(has_seen, address, requests))
        seen = [Traffic.of(address) for address in addresses]
        cancel(workers, runs)
    # What the server noted late by its own fault is not held against us.
    assert seen[0].peak(1.0 - seen[0].lag) <= 20
    assert seen[0].rate() >= 0.85 * 20 * (1 - seen[0].stalled / SECONDS)
    assert seen[1].peak(4.0 - seen[1].lag) <= 30
    assert seen[1].all[4 * 30 - 1] - seen[1].all[0] <= SECONDS
    assert seen[2].largest_group(1.0 - seen[2].lag) <= 5 <= seen[2].largest_group(1.0)
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
        # How soon is a matter of luck and of the machine; bench/limits.py tells how well.
        for address in addresses[:2]:
            wait_for("a limit that is known", partial(is_learned, address), timeout_seconds=120)
        beside = Traffic.of(addresses[2])
        cancel(workers, runs)
    assert beside.peak(1.0 - beside.lag) <= 60
    assert beside.rate() >= 0.75 * 60


def has_seen(address: str, requests: int) -> bool:
    return len(Traffic.of(address).all) >= requests


def is_learned(address: str) -> bool:
    """Whether the latest requests used the 20/s well and were seldom refused."""
    traffic = Traffic.of(address)
    seconds = traffic.all[-1] - traffic.all[0] if traffic.all else 0.0
    if seconds < WARM_UP_SECONDS + SPAN_SECONDS:
        return False
    latest = traffic.since(seconds - SPAN_SECONDS)
    return latest.rate() >= 0.75 * 20 and latest.refused_share <= 0.06

"""Limits as the server counts them: a portal of its own with several worker processes, servers with
and without limits, and what they saw. Nothing here is a race; shares of a second are counted.

A hidden limit is 20/s that nobody has configured: the server answers 429 beyond it. `used` is what
passed of what would have, `refused` the share of 429, both after a warm-up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.table import MET, MISSED, Options, Row, judge, run_benchmark, say
from tests.live.limited import Limit, Traffic, describe_source, serve_limited
from tests.live.stack import Stack, run_stack

HIDDEN = {
    "in any second": Limit("sliding", 20),
    "in any second, with what was refused": Limit("strict", 20),
    "in each second of the clock": Limit("fixed", 20),
    "bucket of 20 tokens": Limit("bucket", 20, burst=20),
    "bucket of 100 tokens": Limit("bucket", 20, burst=100),
    "in any second, Retry-After": Limit("sliding", 20, is_named=True),
}
PER_MINUTE = {
    "600 in any minute": Limit("sliding", 600, seconds=60),
    "600 in each minute of the clock, Retry-After": Limit("fixed", 600, seconds=60, is_named=True),
    "600/min, bucket of 600 tokens": Limit("bucket", 600, seconds=60, burst=600),
}
Sources = list[tuple[int, dict[str, Any]]]


def measure(options: Options) -> list[Row]:
    seconds = options.choose(quick=15.0, normal=60.0)
    steady = options.choose(quick=15.0, normal=120.0)
    rows = list(_measure_configured(seconds))
    rows += _measure_noise(options.choose(quick=300, normal=2_000))
    for slices in (1, 2):
        rows += _measure_hidden(HIDDEN, slices=slices, warm_up=30.0, seconds=steady)
    if options.is_long:
        rows += _measure_hidden(PER_MINUTE, slices=1, warm_up=180.0, seconds=600.0)
    return rows


def _start(stack: Stack, name: str, address: str, count: int, limits: dict[str, Any]) -> int:
    created = stack.api(
        "POST", "/api/sources/", describe_source(name, address, count=count, **limits)
    )
    assert created.status == 201, created.body
    return stack.start_run(name)


def _watch(
    limits: list[Limit], sources: Sources, *, seconds: float, processes: int, slices: int = 1
) -> list[Traffic]:
    """What each server saw while a run of each source (server, its limits) went on."""
    with (
        tempfile.TemporaryDirectory() as folder,
        run_stack(
            Path(folder) / "portal", FETCH_PROCESSES=str(processes), RUN_SLICES=str(slices)
        ) as stack,
        serve_limited(*limits) as addresses,
    ):
        for number, (server, own) in enumerate(sources):
            _start(stack, f"source-{number}", addresses[server], 100_000, own)
        time.sleep(seconds)
        return [Traffic.of(address) for address in addresses]


def _measure_configured(seconds: float) -> Iterator[Row]:
    say("  configured limits …")
    sources: Sources = [
        (0, {"per_second": 20}),
        (0, {"per_second": 20}),
        (1, {"window": {"requests": 100, "seconds": 5}}),
        (2, {"batch": {"requests": 5, "pause_seconds": 1}}),
        (3, {"per_second": 40, "quota": {"requests": 250, "per": "month"}}),
    ]
    shared, window, batch, quota = _watch([Limit()] * 4, sources, seconds=seconds, processes=5)
    used = shared.rate() / 20
    yield _count_peak("20/s, two runs, most in any second", shared, 1.0, 20)
    yield Row(
        "limits: 20/s, two runs, used",
        f"{used:.1%}",
        target="≥ 90 %",
        verdict=judge(used, at_least=0.9),
    )
    yield _count_peak("100 in any 5 s, most", window, 5.0, 100)
    yield Row("limits: 100 in any 5 s, used", f"{window.rate() / 20:.1%}")
    yield _count("5, then 1 s, most without a pause", batch.largest_group(1.0 - 2 * batch.lag), 5)
    yield _count("250 a month, sent", len(quota.all), 250)


def _count_peak(what: str, traffic: Traffic, seconds: float, most: int) -> Row:
    """What the server noted late, because it had no processor, is not held against us."""
    count = traffic.peak(seconds - traffic.lag)
    shown = (
        f"{count} (noted up to {traffic.lag * 1000:.0f} ms late; {traffic.peak(seconds)} as noted)"
    )
    return replace(_count(what, count, most), ours=shown)


def _count(what: str, count: int, most: int) -> Row:
    return Row(
        f"limits: {what}", str(count), target=f"≤ {most}", verdict=judge(count, at_most=most)
    )


def _measure_hidden(
    hidden: dict[str, Limit], *, slices: int, warm_up: float, seconds: float
) -> Iterator[Row]:
    say(f"  hidden limits, {slices} slice(s) each …")
    sources: Sources = [(number, {}) for number in range(len(hidden))]
    seen = _watch(
        list(hidden.values()),
        sources,
        seconds=warm_up + seconds,
        processes=len(hidden) * slices,
        slices=slices,
    )
    for (name, limit), traffic in zip(hidden.items(), seen, strict=True):
        steady = traffic.since(warm_up)
        used = steady.rate() / (limit.requests / limit.seconds)
        is_met = used >= 0.85 and steady.refused_share <= 0.01
        yield Row(
            f"limits: hidden, {name}, {slices} slice(s): used, refused",
            f"{used:.1%}, {steady.refused_share:.2%}",
            target="≥ 85 %, ≤ 1 %",
            verdict=MET if is_met else MISSED,
        )


def _measure_noise(count: int) -> Iterator[Row]:
    """Refusals of single rows, which have nothing to do with the rate."""
    say("  429 with Retry-After on 6 % of the rows …")
    calm = Limit(is_named=True)
    noisy = replace(calm, refused_share=0.06)
    with (
        tempfile.TemporaryDirectory() as folder,
        run_stack(Path(folder) / "portal") as stack,
        serve_limited(calm, noisy) as addresses,
    ):
        seconds = []
        for name, address in zip(("calm", "noisy"), addresses, strict=True):
            began = time.monotonic()
            run = _start(stack, name, address, count, {"per_second": 100})
            ended = stack.wait_for_run(run, timeout_seconds=600)
            assert ended["outcomes"]["delivered"] == count, ended
            seconds.append(time.monotonic() - began)
    ratio = seconds[1] / seconds[0]
    yield Row(
        "limits: 429 with Retry-After on 6 % of the rows",
        f"{seconds[1]:.1f} s",
        f"{seconds[0]:.1f} s without",
        ratio,
        "≤ 2 ×",
        judge(ratio, at_most=2.0),
    )


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

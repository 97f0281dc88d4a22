"""The dashboard's callback at 96,000 rows of the ledger beside 10,000,000.

An hourly run of 4,000 requests, for a day and (long) for 105 days, with all that belongs to it:
ledger rows, minute buckets, and the hours that the triggers make of them. Timed is the callback as
the browser calls it: through its URL, the guard and the JSON of the figures, in a process of each
size, in turns; for the last 24 hours, as the page opens. The last 30 days are reported beside.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench.table import (
    Options,
    Row,
    compare,
    judge,
    quantile,
    run_benchmark,
    say,
    show_number,
)

DAY_ROWS = 96_000
TARGET_MS = 50.0
WARM_UP = 5
DAY, MONTH = "", "?range=30d"


def measure(options: Options) -> list[Row]:
    days = options.choose(quick=3, normal=10, long=105)
    repeats = options.choose(quick=10, normal=60)
    with run_portal(1) as small, run_portal(days) as large:
        times: dict[str, list[float]] = {"small": [], "large": [], "month": []}
        for repeat in range(repeats + WARM_UP):
            measured = {
                "small": ask(small, DAY),
                "large": ask(large, DAY),
                "month": ask(large, MONTH),
            }
            if repeat >= WARM_UP:
                for name, milliseconds in measured.items():
                    times[name].append(milliseconds)
    return list(_judge(times, DAY_ROWS * days, is_long=options.is_long))


@contextlib.contextmanager
def run_portal(days: int) -> Iterator[subprocess.Popen[str]]:
    say(f"  writing {days * DAY_ROWS:,} ledger rows …")
    with subprocess.Popen(
        [sys.executable, "-m", "bench.contestants.dashboard", str(days)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()  # the end of its questions


def ask(portal: subprocess.Popen[str], search: str) -> float:
    assert portal.stdin is not None
    assert portal.stdout is not None
    portal.stdin.write(f"{search}\n")
    portal.stdin.flush()
    return float(portal.stdout.readline())


def _judge(times: dict[str, list[float]], rows: int, *, is_long: bool) -> Iterator[Row]:
    what = f"dashboard callback, {rows:,} ledger rows"
    yield compare(
        f"{what}: median beside {DAY_ROWS:,}",
        ours=quantile(times["large"], 50),
        peer=quantile(times["small"], 50),
        unit="ms",
        peer_name=f"{DAY_ROWS:,} rows:",
        at_most=1.2 if is_long else None,
    )
    for title, name in (("last 24 hours", "large"), ("last 30 days", "month")):
        median, p95 = quantile(times[name], 50), quantile(times[name], 95)
        yield Row(
            f"{what}: median (p95), {title}",
            f"{show_number(median)} ({show_number(p95)}) ms",
            target=f"≤ {TARGET_MS:g} ms" if name == "large" else "",
            verdict=judge(median, at_most=TARGET_MS) if name == "large" else "",
        )


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""Growth of a run: its rate and the greatest resident size of the fetch process, by its length.

Each run has workers of its own, because a process never shows that it has given memory back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.race import run_contestant
from bench.table import Options, Row, compare, run_benchmark, say, show_number
from bench.upstream import run_upstream

TINY, SMALL = 1_000, 10_000


def measure(options: Options) -> list[Row]:
    large = options.choose(quick=20_000, normal=30_000, long=100_000)
    found = {}
    with run_upstream(large) as address:
        for size in (TINY, SMALL, large):
            say(f"  a run of {size:,} …")
            found[size] = run_contestant("gleaner", address, [size])
    return list(_tell(found, large, is_judged=options.is_long))


def _tell(found: dict[int, dict[str, Any]], large: int, *, is_judged: bool) -> Iterator[Row]:
    for size, run in found.items():
        rate, megabytes = size / run["seconds"][size], run["peak_mb"]
        told = f"{show_number(rate)} /s, peak {show_number(megabytes)} MiB"
        yield Row(f"growth of a run: {size:,} requests end to end", told)
    for name, key, at_most in (
        ("peak resident size", "peak_mb", 1.2 if is_judged else None),
        ("of it without mapped files", "private_peak_mb", None),
    ):
        yield compare(
            f"memory: {name}, {large:,} requests beside {SMALL:,}",
            ours=found[large][key],
            peer=found[SMALL][key],
            unit="MiB",
            peer_name=f"{SMALL:,} requests:",
            at_most=at_most,
        )


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""Memory of a run: the greatest resident size of the fetch process, small run beside large run.

Each run has workers of its own, because a process never shows that it has given memory back.
"""

from __future__ import annotations

from bench.race import run_contestant
from bench.table import Options, Row, compare, run_benchmark, say
from bench.upstream import run_upstream

SMALL = 10_000


def measure(options: Options) -> list[Row]:
    large = options.choose(quick=20_000, normal=30_000, long=100_000)
    peaks = {}
    with run_upstream(large) as address:
        for size in (SMALL, large):
            say(f"  a run of {size:,} …")
            peaks[size] = run_contestant("gleaner", address, [size])["peak_mb"]
    row = compare(
        f"memory: {large:,} requests beside {SMALL:,}",
        ours=peaks[large],
        peer=peaks[SMALL],
        unit="MiB",
        peer_name=f"{SMALL:,} requests:",
        at_most=1.2 if options.is_long else None,
    )
    return [row]


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

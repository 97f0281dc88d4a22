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
    found = {}
    with run_upstream(large) as address:
        for size in (SMALL, large):
            say(f"  a run of {size:,} …")
            found[size] = run_contestant("gleaner", address, [size])
    return [
        compare(
            f"memory: {name}, {large:,} requests beside {SMALL:,}",
            ours=found[large][key],
            peer=found[SMALL][key],
            unit="MiB",
            peer_name=f"{SMALL:,} requests:",
            at_most=1.2 if is_judged and options.is_long else None,
        )
        for name, key, is_judged in (
            ("peak resident size", "peak_mb", True),
            ("of it without mapped files", "private_peak_mb", False),
        )
    ]


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""Search at 1,000,000 records beside 100,000 on the embedded engine (long).

Once the cities are used up, their names come again with two more words. The same queries in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench import own_portal  # noqa: F401 - sets Django up

# isort: split
from bench.cities import ask, grow, read_cities
from bench.searchers import make_tantivy
from bench.table import Options, Row, compare, quantile, run_benchmark, say

SMALL = 100_000


def measure(options: Options) -> list[Row]:
    large = options.choose(quick=200_000, normal=300_000, long=1_000_000)
    queries = options.choose(quick=100, normal=300, long=600)
    cities = read_cities()
    questions = ask(cities[:SMALL], queries=queries, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        searchers = {}
        for size in (SMALL, large):
            say(f"  {size:,} records: building the index …")
            searchers[size] = make_tantivy(Path(folder) / str(size), list(grow(cities, size)))
        times: dict[tuple[int, bool], list[float]] = defaultdict(list)
        for question in questions:
            for size, searcher in searchers.items():
                began = time.perf_counter()
                searcher.find(question.typed)
                took = (time.perf_counter() - began) * 1000
                times[size, question.kind == "exact"].append(took)
    return list(_judge(times, large, is_long=options.is_long))


def _judge(
    times: dict[tuple[int, bool], list[float]], large: int, *, is_long: bool
) -> Iterator[Row]:
    every = {size: times[size, True] + times[size, False] for size in (SMALL, large)}
    # Well-spelled names have more namesakes the more records there are, and end in the first stage.
    hard = {size: times[size, False] for size in (SMALL, large)}
    for name, values, percent in (
        ("all queries, p50", every, 50),
        ("misspelled or half-typed, p50", hard, 50),
        ("all queries, p95", every, 95),
    ):
        yield compare(
            f"growth, {large:,} records beside {SMALL:,}: {name}",
            ours=quantile(values[large], percent),
            peer=quantile(values[SMALL], percent),
            unit="ms",
            peer_name=f"{SMALL:,} records:",
            at_most=3 if percent == 50 and is_long else None,
        )


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

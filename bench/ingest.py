"""Ingest beside its peers: the same 10,000 cities from the same upstream (5 ms late), 50 at a time.

Ours is end to end: planned, fetched, stored, indexed, reconciled. `marginal` leaves out what a run
costs once: (t(30,000) - t(10,000)) / 20,000, for the bare loop as for us.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.race import run_contestant
from bench.servers import Missing, find_postgresql
from bench.table import (
    NOT_MEASURED,
    Options,
    Row,
    compare,
    median,
    run_benchmark,
    say,
    show_spread,
)
from bench.upstream import reset, run_upstream

Times = dict[str, list[dict[int, float]]]


def measure(options: Options) -> list[Row]:
    small, large = options.choose(quick=(1_000, 3_000), normal=(10_000, 30_000))
    repeats = options.choose(quick=1, normal=3)
    times: Times = defaultdict(list)
    with run_upstream(large) as address, find_postgresql() as cluster:
        for repeat in range(repeats):
            for name, contestant, sizes in _list_turns(small, large, is_first=repeat == 0):
                environment = {}
                if name == "PostgreSQL":
                    if isinstance(cluster, Missing):
                        continue
                    url = cluster.create_database(f"bench{repeat}")
                    environment["BENCH_DATABASE_URL"] = url
                reset(address)
                say(f"  repeat {repeat + 1} of {repeats}: {name} …")
                found = run_contestant(contestant, address, sizes, **environment)
                times[name].append(found["seconds"])
    missing = str(cluster) if isinstance(cluster, Missing) else ""
    return list(_judge(times, small, large, missing))


def _list_turns(
    small: int, large: int, *, is_first: bool
) -> Iterator[tuple[str, str, Sequence[int]]]:
    yield "bare loop", "bare_loop", (small, large)
    yield "Gleaner", "gleaner", (small, large)
    yield "Scrapy", "scrapy_items", (small,)
    yield "dlt", "dlt_pipeline", (small,)
    yield "PostgreSQL", "gleaner", (small, large)
    if is_first:
        yield "10 threads + pandas", "thread_pool", (small,)


def _judge(times: Times, small: int, large: int, missing: str) -> Iterator[Row]:
    rates = {
        name: [small / seconds[small] for seconds in repeats] for name, repeats in times.items()
    }
    marginal = {
        name: [(large - small) / (seconds[large] - seconds[small]) for seconds in repeats]
        for name, repeats in times.items()
        if large in repeats[0]
    }
    whole = f"{small:,} requests end to end"
    yield _compare("each further request", marginal, "Gleaner", "bare loop", at_least=0.5)
    yield _compare(whole, rates, "Gleaner", "bare loop", at_least=0.35)
    yield _compare(whole, rates, "Gleaner", "Scrapy", at_least=5)
    yield _compare(whole, rates, "Gleaner", "dlt", at_least=5)
    yield _compare(whole, rates, "Gleaner", "10 threads + pandas")
    if missing:
        yield Row("on PostgreSQL", missing, verdict=NOT_MEASURED)
        return
    yield _compare("on PostgreSQL, each further request", marginal, "PostgreSQL", "bare loop")
    yield _compare(f"on PostgreSQL, {whole}", rates, "PostgreSQL", "bare loop")


def _compare(
    what: str,
    rates: dict[str, list[float]],
    ours: str,
    peer: str,
    at_least: float | None = None,
) -> Row:
    return compare(
        f"ingest: {what}",
        ours=median(rates[ours]),
        peer=median(rates[peer]),
        unit="/s",
        peer_name=peer,
        at_least=at_least,
        ours_spread=show_spread(rates[ours]),
        peer_spread=show_spread(rates[peer]),
    )


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

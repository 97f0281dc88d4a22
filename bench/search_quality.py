"""How well and how fast misspelled and half-typed city names are found, beside other engines.

20,000 distinct names and all 234,908 cities (see bench/cities.py). Engines take turns on every
query. MRR and hit@10 are over whole words (exact, one edit, two edits); times are over all queries.
Engines that are slow by nature are asked every n-th query only.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import own_portal  # noqa: F401 - sets Django up

# isort: split
from bench.cities import ALL_CITIES, HALF, WHOLE_KINDS, City, Question, ask, read_cities
from bench.searchers import (
    EveryName,
    Gleaner,
    PlainElasticsearch,
    Searcher,
    SqliteTrigrams,
    Trigrams,
    make_elasticsearch,
    make_tantivy,
)
from bench.servers import Cluster, Missing, find_postgresql, try_elasticsearch
from bench.table import (
    NOT_MEASURED,
    Options,
    Row,
    judge,
    quantile,
    run_benchmark,
    say,
)

WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Target:
    mrr: float
    hit: float
    half: float


TARGETS = {20_000: Target(0.955, 0.985, 0.88), ALL_CITIES: Target(0.94, 0.97, 0.80)}


@dataclass
class Score:
    """What an engine made of its queries: rank 0 = not among the first ten."""

    ranks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    seconds: list[float] = field(default_factory=list)

    def note(self, question: Question, titles: Sequence[str], seconds: float) -> None:
        rank = titles.index(question.wanted) + 1 if question.wanted in titles else 0
        self.ranks[question.kind].append(rank)
        self.seconds.append(seconds)

    def mrr(self, *kinds: str) -> float:
        ranks = [rank for kind in kinds for rank in self.ranks[kind]]
        return sum(1 / rank for rank in ranks if rank) / max(len(ranks), 1)

    def hit(self, *kinds: str) -> float:
        ranks = [rank for kind in kinds for rank in self.ranks[kind]]
        return sum(rank > 0 for rank in ranks) / max(len(ranks), 1)

    def p(self, percent: float) -> float:
        return quantile(self.seconds, percent) * 1000

    def describe(self) -> str:
        return (
            f"p50 {self.p(50):.1f} / p95 {self.p(95):.1f} ms, MRR {self.mrr(*WHOLE_KINDS):.3f}, "
            f"hit@10 {self.hit(*WHOLE_KINDS):.3f}, half-typed {self.hit(HALF):.3f}"
        )


def measure(options: Options) -> list[Row]:
    sizes = options.choose(quick=(20_000,), normal=(20_000, ALL_CITIES))
    rows: list[Row] = []
    with try_elasticsearch() as url, find_postgresql() as cluster:
        for size in sizes:
            cities = read_cities(size, distinct=size < ALL_CITIES)
            rows += _measure_size(cities, options, url, cluster)
    return rows


def _measure_size(
    cities: list[City], options: Options, url: str | Missing, cluster: Cluster | Missing
) -> Iterator[Row]:
    size = len(cities)
    seeds = options.choose(quick=1, normal=2, long=5)
    queries = options.choose(quick=150, normal=300, long=1_000)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours, always, sometimes = _build(cities, Path(folder), url, cluster, stack)
        scores = {searcher.name: Score() for searcher in (ours, *always, *sometimes)}
        mirror = {searcher.name: Score() for searcher in (ours, *always, *sometimes)}
        every = options.choose(quick=1, normal=2, long=10)
        for seed in range(seeds):
            say(f"  {size:,} cities, seed {seed + 1} of {seeds} …")
            questions = ask(cities, queries=queries, seed=seed)
            for searcher in (ours, *always, *sometimes):
                for question in questions[:WARM_UP]:
                    searcher.find(question.typed)
            for index, question in enumerate(questions):
                asked: list[Searcher] = [ours, *always]
                if index % every == 0:
                    asked += sometimes
                for searcher in asked[index % 2 :] + asked[: index % 2]:
                    began = time.perf_counter()
                    titles = searcher.find(question.typed)
                    seconds = time.perf_counter() - began
                    scores[searcher.name].note(question, titles, seconds)
                    if index % every == 0:
                        mirror[searcher.name].note(question, titles, seconds)
    yield from _judge(size, ours, always, sometimes, scores, mirror, url, cluster)


def _build(
    cities: list[City],
    folder: Path,
    url: str | Missing,
    cluster: Cluster | Missing,
    stack: contextlib.ExitStack,
) -> tuple[Gleaner, list[Searcher], list[Searcher]]:
    """Ours, those that are asked every query, and those that are asked some."""
    size = len(cities)
    say(f"  {size:,} cities: building the indexes …")
    always: list[Searcher] = []
    sometimes: list[Searcher] = [SqliteTrigrams(cities), EveryName(cities)]
    if not isinstance(url, Missing):
        always.append(PlainElasticsearch(url, f"plain-{size}", cities))
        sometimes.append(make_elasticsearch(url, f"ours-{size}", cities))
    if not isinstance(cluster, Missing):
        connection = stack.enter_context(cluster.connect("gleaner"))
        sometimes.append(Trigrams(connection, cities))
    return make_tantivy(folder, cities), always, sometimes


def _judge(
    size: int,
    ours: Gleaner,
    always: list[Searcher],
    sometimes: list[Searcher],
    scores: dict[str, Score],
    mirror: dict[str, Score],
    url: str | Missing,
    cluster: Cluster | Missing,
) -> Iterator[Row]:
    what = f"search, {size:,} cities"
    mine, target = scores[ours.name], TARGETS.get(size)
    if always:
        peer = scores[always[0].name]
        yield from _judge_quality(what, mine, peer, target)
        ratio = mine.p(50) / peer.p(50)
        yield Row(
            f"{what}: p50 (p95) of hits and exact total",
            f"{mine.p(50):.2f} ({mine.p(95):.2f}) ms",
            f"multi_match AUTO {peer.p(50):.2f} ({peer.p(95):.2f}) ms",
            ratio,
            "≤ 1 ×",
            judge(ratio, at_most=1),
        )
    else:
        yield from _judge_quality(what, mine, None, target)
        yield Row(what, "", str(url), verdict=NOT_MEASURED)
    for searcher in sometimes:
        # Both sides of the queries that this one was asked.
        own, other = mirror[ours.name], mirror[searcher.name]
        ratio = own.p(50) / other.p(50)
        peer_text = f"{searcher.name}: {other.describe()}"
        yield Row(f"{what}: beside {searcher.name}", own.describe(), peer_text, ratio)
    if isinstance(cluster, Missing):
        yield Row(f"{what}: beside pg_trgm", "", str(cluster), verdict=NOT_MEASURED)


def _judge_quality(
    what: str, mine: Score, peer: Score | None, target: Target | None
) -> Iterator[Row]:
    for kind in (*WHOLE_KINDS, HALF):
        yield Row(f"{what}: {kind}, MRR (hit@10)", _show(mine, kind), _show(peer, kind))
    figures = (
        ("MRR of whole words", mine.mrr(*WHOLE_KINDS), peer.mrr(*WHOLE_KINDS) if peer else None),
        ("hit@10 of whole words", mine.hit(*WHOLE_KINDS), peer.hit(*WHOLE_KINDS) if peer else None),
        ("hit@10 of half-typed words", mine.hit(HALF), peer.hit(HALF) if peer else None),
    )
    limits = (target.mrr, target.hit, target.half) if target else (None, None, None)
    for (name, value, other), least in zip(figures, limits, strict=True):
        yield Row(
            f"{what}: {name}",
            f"{value:.3f}",
            "" if other is None else f"multi_match AUTO {other:.3f}",
            value / other if other else None,
            f"≥ {least:g}" if least else "",
            judge(value, at_least=least) if least else "",
        )


def _show(score: Score | None, kind: str) -> str:
    return f"{score.mrr(kind):.3f} ({score.hit(kind):.3f})" if score else ""


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

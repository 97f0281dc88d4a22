"""The plan worked out in plain Python over all documents: what any engine must answer.

Slow and obvious. It shares the plan with the engines and the predicate with the highlighter, but
nothing with any compiler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from search.documents import Document
from search.engines.base import Order
from search.highlight import matches
from search.plan import (
    ADJACENCY_POINTS,
    FIELD_BOOSTS,
    LENGTHS,
    PHRASE_POINTS,
    RANK_UNIT,
    TITLE,
    Clause,
    Plan,
    Visibility,
    build_plan,
    list_stages,
)
from search.query import Filter, SearchQuery, Sort, StatusFilter

ORDERS = {Sort.SCORE: Order.BEST, Sort.OLDEST: Order.OLDEST, Sort.NEWEST: Order.NEWEST}


def answer(
    documents: Iterable[Document], query: SearchQuery, visibility: Visibility
) -> tuple[int, list[tuple[str, int]]]:
    """The stage that answers, and (document id, score in units) of all hits in order."""
    known = list(documents)
    stages = list_stages(query.text)
    found = {}
    whole = set()
    for stage in stages:
        plan = build_plan(query, stage=stage, visibility=visibility)
        found[stage] = [(d, score) for d in known if (score := score_units(plan, d)) is not None]
        strict = replace(plan, least_matching=len(plan.words))
        if any(score_units(strict, d) is not None for d, _ in found[stage]):
            whole.add(stage)
    enough = [stage for stage in stages if len(found[stage]) >= max(query.size, 10)]
    stage = next((s for s in enough if s in whole), enough[0] if enough else stages[-1])
    hits = found[stage]
    keys = {
        Sort.SCORE: lambda hit: (-hit[1], hit[0].tie),
        Sort.OLDEST: lambda hit: (hit[0].at_us, hit[0].tie),
        Sort.NEWEST: lambda hit: (-hit[0].at_us, hit[0].tie),
    }
    return stage, [(d.id, score) for d, score in sorted(hits, key=keys[query.sort])]


def score_units(plan: Plan, document: Document) -> int | None:
    """The score of a document in units of 1/RANK_UNIT; None when it does not match."""
    if plan.matches_nothing or not _passes(plan, document):
        return None
    words = _words(document)
    best = [_score_best(word, words) for word in plan.words]
    if plan.words and sum(points > 0 for points in best) < plan.least_matching:
        return None
    if not all(_in_fields(words, phrase, 1) for phrase in plan.phrases):
        return None
    phrases = [_in_fields(words, phrase, PHRASE_POINTS) for phrase in plan.scored_phrases]
    surplus = [_score_best(word, words) for word in plan.surplus]
    pairs = [_in_fields(words, pair, ADJACENCY_POINTS) for pair in plan.pairs]
    points = sum(best + phrases + pairs + surplus) + (1 if plan.is_unscored else 0)
    return points * (RANK_UNIT + document.rank)


def _score_best(word: Iterable[Clause], words: dict[str, list[str]]) -> int:
    return max(
        (
            clause.points + _count_extra_points(clause, words)
            for clause in word
            if any(matches(clause, token) for token in words[clause.field])
        ),
        default=0,
    )


def _count_extra_points(clause: Clause, words: dict[str, list[str]]) -> int:
    terms = words | {LENGTHS: [str(len(word)) for word in words[TITLE]]}
    return max((points for field, term, points in clause.extras if term in terms[field]), default=0)


def _words(document: Document) -> dict[str, list[str]]:
    return {"title": document.title_words.split(), "body": document.body_words.split()}


def _in_fields(words: dict[str, list[str]], phrase: tuple[str, ...], points: int) -> int:
    return max(
        points * boost if _stands_in(words[field], phrase) else 0
        for field, boost in FIELD_BOOSTS.items()
    )


def _stands_in(words: list[str], phrase: tuple[str, ...]) -> bool:
    return any(
        tuple(words[start : start + len(phrase)]) == phrase
        for start in range(len(words) - len(phrase) + 1)
    )


def _passes(plan: Plan, document: Document) -> bool:
    query, seen = plan.query, plan.visibility
    words = _words(document)
    return (
        not any(_in_fields(words, phrase, 1) for phrase in plan.excluded)
        and all(_accepts(f, document) for f in (*query.filters, *query.text.filters))
        and (query.since_us is None or document.at_us >= query.since_us)
        and (query.until_us is None or document.at_us < query.until_us)
        and document.source not in seen.archived_sources
        and (seen.all_errors or document.kind == "record" or document.source in seen.own_sources)
    )


def _accepts(wanted: Filter, document: Document) -> bool:
    if isinstance(wanted, StatusFilter):
        status = document.status
        found = status is not None and any(low <= status <= high for low, high in wanted.ranges)
    else:
        found = getattr(document, wanted.field) in wanted.values
    return found != wanted.negated

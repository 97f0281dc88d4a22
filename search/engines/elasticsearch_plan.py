"""The compiler for Elasticsearch: plan → query, and positions → sort keys.

Each tier of a word is one `multi_match` (best_fields) whose field boosts are the plan's points,
with the points for its extras beside it.
Nothing else scores: the text fields have the similarity `boolean` (a term is worth its boost),
fuzzy and prefix clauses are constant, and `field_value_factor` multiplies the sum with the
document's static factor. That factor is stored as RANK_UNIT + rank, so a `_score` is the whole
number of units itself; all of them are below 2²⁴ and so exact in 32-bit floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from search.engines.base import Order
from search.plan import (
    ADJACENCY_POINTS,
    BODY,
    EDITS,
    FIELD_BOOSTS,
    PHRASE_POINTS,
    TITLE,
    Clause,
    Plan,
    Tier,
)
from search.query import Filter, Kind, StatusFilter
from search.shelves import MARK_CHARS

Query = dict[str, Any]

# A typo inside a prefix is looked for among the beginnings of the title's words: Elasticsearch has
# no query that joins both. A body has too many beginnings: there its words are compared with a
# pattern, which costs more to find and nothing to keep.
PREFIXES = "title_prefixes"


def compile_scored(plan: Plan) -> Query:
    """The query whose `_score` is the plan's score in units."""
    return {
        "function_score": {
            "query": compile_plan(plan),
            "field_value_factor": {"field": "factor"},
            "boost_mode": "multiply",
        }
    }


def compile_plan(plan: Plan) -> Query:
    """The query whose `_score` is the plan's points, without the document's static factor."""
    if plan.matches_nothing:
        return {"match_none": {}}
    must = [_compile_words(plan)] if plan.words else []
    must += [_compile_phrase(phrase, PHRASE_POINTS) for phrase in plan.scored_phrases]
    should = [_compile_phrase(pair, ADJACENCY_POINTS) for pair in plan.pairs]
    should += [_best(_compile_tiers(word)) for word in plan.surplus]
    required = [_compile_phrase(phrase, 1) for phrase in plan.unscored_phrases]
    return {
        "bool": {
            # match_all is worth the one point of a plan without words.
            "must": must or [{"match_all": {}}],
            "should": should,
            "must_not": [_compile_phrase(phrase, 1) for phrase in plan.excluded],
            "filter": [*required, *_compile_filters(plan)],
        }
    }


def compile_all_words(plan: Plan) -> Query:
    """What those of the plan's hits match that meet all words."""
    words = plan.require_all_words().words
    return {"bool": {"filter": [_best(_compile_tiers(word)) for word in words]}}


def compile_sort(order: Order) -> list[dict[str, str]]:
    key = {
        Order.BEST: {"_score": "desc"},
        Order.OLDEST: {"at_us": "asc"},
        Order.NEWEST: {"at_us": "desc"},
    }
    return [key[order], {"tie": "asc"}]


def _compile_words(plan: Plan) -> Query:
    words = [_best(_compile_tiers(word)) for word in plan.words]
    if len(words) == 1:
        return words[0]
    return {"bool": {"should": words, "minimum_should_match": plan.least_matching}}


def _compile_tiers(word: tuple[Clause, ...]) -> Iterator[Query]:
    """One `multi_match` per tier, over the fields that the word is looked for in."""
    tiers: dict[tuple[Any, ...], list[Clause]] = {}
    for clause in word:
        if clause.tier is Tier.PREFIX_TYPO and clause.field == BODY:
            yield _compile_pattern(clause)
        else:
            tiers.setdefault((clause.tier, clause.extras), []).append(clause)
    for (tier, extras), clauses in tiers.items():
        found = {"multi_match": _compile_tier(tier, clauses)}
        if not extras:
            yield found
        else:
            more = _best({"term": {f: {"value": term, "boost": p}}} for f, term, p in extras)
            yield {"bool": {"must": [found], "should": [more]}}


def _compile_tier(tier: Tier, clauses: list[Clause]) -> Query:
    names = {TITLE: PREFIXES} if tier is Tier.PREFIX_TYPO else {}
    query: Query = {
        "query": clauses[0].indexed[1],
        "fields": [f"{names.get(field := c.indexed[0], field)}^{c.points}" for c in clauses],
        "type": "best_fields",
    }
    if tier is Tier.PREFIX:
        # This type adds the fields up unless told to take the best.
        query |= {"type": "bool_prefix", "tie_breaker": 0}
    if EDITS[tier]:
        # Without a constant rewrite, 50 spellings at most would be tried, and totals be wrong.
        query |= {"fuzziness": EDITS[tier], "fuzzy_rewrite": "constant_score"}
        # There is no typo in the mark of a shelf.
        query |= {"prefix_length": MARK_CHARS} if clauses[0].is_shelved else {}
    return query


def _compile_pattern(clause: Clause) -> Query:
    """The words that begin with the clause's word, but for one edit."""
    field, marked = clause.indexed
    pattern = f"{marked[:MARK_CHARS]}{spell_one_edit(clause.word)}.*"
    return {"regexp": {field: {"value": pattern, "flags": "NONE", "boost": clause.points}}}


def spell_one_edit(word: str) -> str:
    """The regular expression of `word` with at most one edit: in its first half, in its second, or
    an exchange where they meet. No character of a folded word is an operator."""
    if len(word) == 1:
        # Another character, none, or one more before it.
        return f".?{word}?"
    left, right = word[: len(word) // 2], word[len(word) // 2 :]
    exchanged = f"{left[:-1]}{right[0]}{left[-1]}{right[1:]}"
    return f"({spell_one_edit(left)}{right}|{left}{spell_one_edit(right)}|{exchanged})"


def _best(queries: Iterable[Query]) -> Query:
    found = list(queries)
    return found[0] if len(found) == 1 else {"dis_max": {"queries": found}}


def _compile_phrase(words: tuple[str, ...], points: int) -> Query:
    fields = [f"{field}^{points * boost}" for field, boost in FIELD_BOOSTS.items()]
    return {"multi_match": {"query": " ".join(words), "fields": fields, "type": "phrase"}}


def _compile_filters(plan: Plan) -> Iterator[Query]:
    query = plan.query
    for wanted in (*query.filters, *query.text.filters):
        found = _compile_filter(wanted)
        yield _negate(found) if wanted.negated else found
    bounds = {"gte": query.since_us, "lt": query.until_us}
    if given := {name: value for name, value in bounds.items() if value is not None}:
        yield {"range": {"at_us": given}}
    if not plan.visibility.all_errors:
        yield _compile_visibility(plan.visibility.own_sources)
    if plan.visibility.archived_sources:
        yield _negate({"terms": {"source": list(plan.visibility.archived_sources)}})


def _compile_filter(wanted: Filter) -> Query:
    if isinstance(wanted, StatusFilter):
        return _any_of({"range": {"status": {"gte": a, "lte": b}}} for a, b in wanted.ranges)
    return {"terms": {wanted.field: list(wanted.values)}}


def _compile_visibility(own_sources: tuple[str, ...]) -> Query:
    """Records are for everybody, fetch errors for the source's owner, server errors for staff."""
    visible: list[Query] = [{"term": {"kind": Kind.RECORD.value}}]
    if own_sources:
        visible.append({"terms": {"source": list(own_sources)}})
    return _any_of(visible)


def _any_of(queries: Iterable[Query]) -> Query:
    return {"bool": {"should": list(queries), "minimum_should_match": 1}}


def _negate(query: Query) -> Query:
    return {"bool": {"must_not": [query]}}

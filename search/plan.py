"""The one query plan: which clauses a query is made of, and what each is worth.

Both engines compile this plan and nothing else, so they find the same documents with the same
scores. A score is a whole number of points out of this module (tiers × field boosts, adjacency)
times a static factor of the document (short title, `weight`); there are no corpus statistics in it.
Points are whole and small, so that the sums are exact in the 32-bit floats of both engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from search.query import ParsedText, SearchQuery

TITLE, BODY = "title", "body"
FIELD_BOOSTS = {TITLE: 3, BODY: 1}


class Tier(StrEnum):
    """How a word of the query may be met by a word of a document, best first."""

    EXACT = "exact"
    PREFIX = "prefix"
    TYPO = "typo"
    PREFIX_TYPO = "prefix_typo"
    TWO_TYPOS = "two_typos"


POINTS = {
    Tier.EXACT: 40,
    Tier.PREFIX: 12,
    Tier.TYPO: 8,
    Tier.PREFIX_TYPO: 4,
    Tier.TWO_TYPOS: 2,
}
EDITS = {
    Tier.EXACT: 0,
    Tier.PREFIX: 0,
    Tier.TYPO: 1,
    Tier.PREFIX_TYPO: 1,
    Tier.TWO_TYPOS: 2,
}
ADJACENCY_POINTS = 10
PHRASE_POINTS = 40

# Each stage adds these to the stages before it. Measured: typos in the body cost 13 of 15 ms.
STAGES: tuple[tuple[tuple[Tier, str], ...], ...] = (
    (
        (Tier.EXACT, TITLE),
        (Tier.EXACT, BODY),
        (Tier.PREFIX, TITLE),
        (Tier.PREFIX, BODY),
    ),
    ((Tier.TYPO, TITLE), (Tier.PREFIX_TYPO, TITLE)),
    ((Tier.TWO_TYPOS, TITLE),),
    ((Tier.TYPO, BODY), (Tier.TWO_TYPOS, BODY)),
)
ENOUGH_HITS = 10

# A prefix with a typo in it is compared with the prefixes of a word, which Elasticsearch has up to
# this length.
MIN_PREFIX_TYPO_CHARS, MAX_PREFIX_TYPO_CHARS = 4, 15

# The static factor of a document: 1 + rank / RANK_UNIT. It orders within a tier and never lifts a
# tier over the next one (12 × 1.25 < 40, 8 × 1.25 < 12, …).
RANK_UNIT = 512
MAX_RANK = 127
_TITLE_RANK = 80


@dataclass(frozen=True, slots=True)
class Clause:
    tier: Tier
    field: str
    word: str
    points: int

    @property
    def edits(self) -> int:
        return EDITS[self.tier]


@dataclass(frozen=True, slots=True)
class Visibility:
    """What a person may see: all errors, or the fetch errors of `own_sources`; all records.

    Nobody sees what belongs to `archived_sources`, which wait for their purge.
    """

    all_errors: bool = False
    own_sources: tuple[str, ...] = ()
    archived_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A query at one stage.

    A document matches when at least `least_matching` of the `words` are met by one of their
    clauses (a word scores its best clause), all `phrases` stand in one field, nothing `excluded`
    does, and the query's filters and `visibility` let it pass. Each of `pairs` that stands in a
    field adds ADJACENCY_POINTS × its boost, each phrase PHRASE_POINTS × its boost. A plan without
    words and phrases gives each document one point.
    """

    query: SearchQuery
    visibility: Visibility
    stage: int
    words: tuple[tuple[Clause, ...], ...]
    least_matching: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def phrases(self) -> tuple[tuple[str, ...], ...]:
        return self.query.text.phrases

    @property
    def excluded(self) -> tuple[tuple[str, ...], ...]:
        return self.query.text.excluded

    @property
    def is_unscored(self) -> bool:
        return not (self.words or self.phrases)


def build_plan(query: SearchQuery, *, stage: int, visibility: Visibility) -> Plan:
    text = query.text
    tiers = [entry for entries in STAGES[: stage + 1] for entry in entries]
    last = len(text.words) - 1
    return Plan(
        query=query,
        visibility=visibility,
        stage=stage,
        words=tuple(
            tuple(_clauses(word, tiers, may_be_prefix=text.last_is_prefix and index == last))
            for index, word in enumerate(text.words)
        ),
        least_matching=count_least_matching(len(text.words)),
        pairs=tuple(dict.fromkeys(zip(text.words, text.words[1:], strict=False))),
    )


def list_stages(text: ParsedText) -> list[int]:
    """The stages worth running: those that can find more than the one before."""
    last = len(text.words) - 1
    found: list[int] = []
    before = -1
    for stage in range(len(STAGES)):
        tiers = [entry for entries in STAGES[: stage + 1] for entry in entries]
        clauses = sum(
            1
            for index, word in enumerate(text.words)
            for _ in _clauses(word, tiers, may_be_prefix=text.last_is_prefix and index == last)
        )
        if clauses > before:
            found.append(stage)
            before = clauses
    return found


def count_edits(word: str) -> int:
    """How many typos a word may have: Elasticsearch's AUTO, and none beside a digit."""
    if any(char.isdigit() for char in word) or len(word) < 3:
        return 0
    return 1 if len(word) < 6 else 2


def count_least_matching(words: int) -> int:
    return words if words <= 2 else words * 3 // 4


def _clauses(word: str, tiers: list[tuple[Tier, str]], *, may_be_prefix: bool) -> Iterator[Clause]:
    for tier, field in tiers:
        if _applies(tier, word, may_be_prefix=may_be_prefix):
            yield Clause(tier, field, word, POINTS[tier] * FIELD_BOOSTS[field])


def _applies(tier: Tier, word: str, *, may_be_prefix: bool) -> bool:
    if tier in (Tier.PREFIX, Tier.PREFIX_TYPO) and not may_be_prefix:
        return False
    if tier is Tier.PREFIX_TYPO:
        return count_edits(word) > 0 and MIN_PREFIX_TYPO_CHARS <= len(word) <= MAX_PREFIX_TYPO_CHARS
    return count_edits(word) >= EDITS[tier]


def rank_document(*, title_words: int, weight: float | None) -> int:
    """The static rank of a document, 0..MAX_RANK: short titles first, then a large `weight`.

    Weights are compared by magnitude (a city of a million inhabitants against one of a thousand),
    from 1 up to 10⁸; 0, negative and absent ones add nothing.
    """
    brevity = _TITLE_RANK / max(title_words, 1)
    magnitude = math.log10(1 + weight) / 8 if weight and 0 < weight < math.inf else 0.0
    return round(brevity + (MAX_RANK - _TITLE_RANK) * min(magnitude, 1.0))

"""The one query plan: which clauses a query is made of, and what each is worth.

Both engines compile this plan and nothing else, so they find the same documents with the same
scores. A score is a whole number of points out of this module (tiers × field boosts, adjacency)
times a static factor of the document (short title, `weight`); there are no corpus statistics in it.
Points are whole and small, so that the sums are exact in the 32-bit floats of both engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from search.query import MAX_WORDS, ParsedText, SearchQuery
from search.shelves import find_shelf

TITLE, BODY = "title", "body"
FIELD_BOOSTS = {TITLE: 3, BODY: 1}
# Where the words of a field stand once more, behind the marks of their shelves.
SHELVED = {TITLE: "title_shelved", BODY: "body_shelved"}
# How many letters the words of the title have.
LENGTHS = "title_lengths"


class Tier(StrEnum):
    """How a word of the query may be met by a word of a document, best first."""

    EXACT = "exact"
    PREFIX = "prefix"
    TYPO = "typo"
    PREFIX_TYPO = "prefix_typo"
    TWO_TYPOS = "two_typos"


POINTS = {
    Tier.EXACT: 130,
    Tier.PREFIX: 48,
    Tier.TYPO: 32,
    Tier.PREFIX_TYPO: 20,
    Tier.TWO_TYPOS: 12,
}
EDITS = {
    Tier.EXACT: 0,
    Tier.PREFIX: 0,
    Tier.TYPO: 1,
    Tier.PREFIX_TYPO: 1,
    Tier.TWO_TYPOS: 2,
}
# Points more where the title has a word with so many letters more than the typed one. A typed word
# that lacks a letter is likelier than one with a wrong or an additional letter, as there is one way
# to leave out a letter and there are many to hit a wrong one; and a beginning is likelier that of a
# word which it nearly completes. Measured on misspellings of people and of chance.
LENGTH_POINTS: dict[Tier, dict[int, int]] = {
    Tier.PREFIX: {1: 9, 2: 6, 3: 3},
    Tier.TYPO: {1: 5},
    Tier.PREFIX_TYPO: {0: 1, 1: 3, 2: 3, 3: 2, 4: 1},
    Tier.TWO_TYPOS: {0: 1, 1: 2, 2: 3},
}
# Points more where the title has the typed word with two neighbouring letters exchanged.
EXCHANGE_POINTS = 5
ADJACENCY_POINTS = 32
PHRASE_POINTS = 130
# What the words beyond the limit share, each at most so many. A query of 400 characters has fewer
# of them than there are points to share.
SURPLUS_POINTS, MOST_SURPLUS_POINTS = 776, 24

# Each stage adds these to the stages before it. Measured: typos in the body cost 13 of 15 ms.
# The first with enough hits answers, of which one has to meet all words if any stage finds such a
# one: the word that all the others lack may be the misspelled one, which a later stage finds.
STAGES: tuple[tuple[tuple[Tier, str], ...], ...] = (
    (
        (Tier.EXACT, TITLE),
        (Tier.EXACT, BODY),
        (Tier.PREFIX, TITLE),
        (Tier.PREFIX, BODY),
    ),
    ((Tier.TYPO, TITLE), (Tier.PREFIX_TYPO, TITLE)),
    ((Tier.TWO_TYPOS, TITLE),),
    ((Tier.TYPO, BODY), (Tier.PREFIX_TYPO, BODY), (Tier.TWO_TYPOS, BODY)),
)
ENOUGH_HITS = 10

# A prefix with a typo in it is compared with the prefixes of a word, which Elasticsearch has up to
# this length (in bodies: is given as a pattern). Of a longer one its beginning counts, which tells
# enough.
MIN_PREFIX_TYPO_CHARS, MAX_PREFIX_TYPO_CHARS = 4, 15

# The static factor of a document: 1 + rank / RANK_UNIT. It orders within a tier and never lifts a
# tier over the next one (3 × 48 + 9 times 1.25 is less than 3 × 130, and so on down). A sum of at
# most 6,560 points times this is exact in both engines.
RANK_UNIT = 512
MAX_RANK = 127
_TITLE_RANK = 80


@dataclass(frozen=True, slots=True)
class Clause:
    """A way in which a word of a `field` meets a `word` of the query (or, with a typo in a long
    prefix, its beginning); worth `points`.

    Each of `extras` is a field and a term of the index, and points more for documents that have it;
    the best one counts.
    """

    tier: Tier
    field: str
    word: str
    points: int
    extras: tuple[tuple[str, str, int], ...] = ()

    @property
    def edits(self) -> int:
        return EDITS[self.tier]

    @property
    def is_shelved(self) -> bool:
        """Whether only words of the same script count (see `search.shelves`); beginnings of the
        words of titles stand together."""
        return self.edits > 0 and (self.tier, self.field) != (Tier.PREFIX_TYPO, TITLE)

    @property
    def indexed(self) -> tuple[str, str]:
        """The field of the index and the word to look for in it."""
        if self.is_shelved:
            return SHELVED[self.field], find_shelf(self.word) + self.word
        return self.field, self.word


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
    field adds ADJACENCY_POINTS × its boost, each of `scored_phrases` PHRASE_POINTS × its boost, and
    each word of the `surplus` its best clause. A plan without words and phrases gives each document
    one point; one of a text without any word matches nothing.
    """

    query: SearchQuery
    visibility: Visibility
    stage: int
    words: tuple[tuple[Clause, ...], ...]
    least_matching: int
    pairs: tuple[tuple[str, str], ...]
    surplus: tuple[tuple[Clause, ...], ...] = ()

    @property
    def phrases(self) -> tuple[tuple[str, ...], ...]:
        return self.query.text.phrases

    @property
    def scored_phrases(self) -> tuple[tuple[str, ...], ...]:
        return self.phrases[: self._most_scored]

    @property
    def unscored_phrases(self) -> tuple[tuple[str, ...], ...]:
        """Every hit has them, so that points for them would tell little and make sums too large."""
        return self.phrases[self._most_scored :]

    @property
    def _most_scored(self) -> int:
        return MAX_WORDS - len(self.words)

    @property
    def matches_nothing(self) -> bool:
        return self.query.text.is_wordless

    @property
    def excluded(self) -> tuple[tuple[str, ...], ...]:
        return self.query.text.excluded

    @property
    def enough_hits(self) -> int:
        """With so many, no later stage is asked."""
        return max(self.query.size, ENOUGH_HITS)

    @property
    def may_lack_words(self) -> bool:
        """Whether documents match that do not meet all words."""
        return self.least_matching < len(self.words)

    def require_all_words(self) -> Plan:
        """The plan that only those of its documents match which meet all words.

        Without what only makes a difference to scores: it asks whether there is one.
        """
        words = tuple(tuple(replace(clause, extras=()) for clause in word) for word in self.words)
        return replace(self, words=words, least_matching=len(words), pairs=(), surplus=())

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
        surplus=tuple(_list_surplus(text.surplus)),
    )


def _list_surplus(words: tuple[str, ...]) -> Iterator[tuple[Clause, ...]]:
    points = min(SURPLUS_POINTS // max(len(words), 1), MOST_SURPLUS_POINTS)
    for word in words:
        yield tuple(Clause(Tier.EXACT, field, word, points) for field in FIELD_BOOSTS)


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
            extras = tuple(_list_extras(tier, word)) if field == TITLE else ()
            wanted = word[:MAX_PREFIX_TYPO_CHARS] if tier is Tier.PREFIX_TYPO else word
            yield Clause(tier, field, wanted, POINTS[tier] * FIELD_BOOSTS[field], extras)


def _list_extras(tier: Tier, word: str) -> Iterator[tuple[str, str, int]]:
    for more, points in LENGTH_POINTS.get(tier, {}).items():
        yield LENGTHS, str(len(word) + more), points
    if tier is Tier.TYPO:
        for exchanged in _list_exchanges(word):
            yield TITLE, exchanged, EXCHANGE_POINTS


def _list_exchanges(word: str) -> Iterator[str]:
    """The words that became `word` when two different neighbours were typed in the wrong order."""
    for at in range(len(word) - 1):
        if word[at] != word[at + 1]:
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _applies(tier: Tier, word: str, *, may_be_prefix: bool) -> bool:
    if tier in (Tier.PREFIX, Tier.PREFIX_TYPO) and not may_be_prefix:
        return False
    if tier is Tier.PREFIX_TYPO:
        return count_edits(word) > 0 and len(word) >= MIN_PREFIX_TYPO_CHARS
    return count_edits(word) >= EDITS[tier]


def rank_document(*, title_words: int, weight: float | None) -> int:
    """The static rank of a document, 0..MAX_RANK: short titles first, then a large `weight`.

    Weights are compared by magnitude (a city of a million inhabitants against one of a thousand),
    from 1 up to 10⁸; 0, negative and absent ones add nothing.
    """
    brevity = _TITLE_RANK / max(title_words, 1)
    magnitude = math.log10(1 + weight) / 8 if weight and 0 < weight < math.inf else 0.0
    return round(brevity + (MAX_RANK - _TITLE_RANK) * min(magnitude, 1.0))

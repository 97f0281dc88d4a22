from __future__ import annotations

from itertools import pairwise

import pytest

from search.plan import (
    FIELD_BOOSTS,
    MAX_RANK,
    POINTS,
    RANK_UNIT,
    STAGES,
    Tier,
    Visibility,
    build_plan,
    count_edits,
    count_least_matching,
    list_stages,
    rank_document,
)
from search.query import MAX_WORDS, parse_text, read_query


@pytest.mark.parametrize(
    ("word", "edits"),
    [("a", 0), ("ab", 0), ("abc", 1), ("abcde", 1), ("abcdef", 2), ("abc1", 0), ("abcdefgh²", 0)],
)
def test_edits_follow_the_length_and_digits_allow_none(word: str, edits: int) -> None:
    assert count_edits(word) == edits


@pytest.mark.parametrize(
    ("words", "least"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 5), (12, 9)]
)
def test_from_three_words_on_three_quarters_must_match(words: int, least: int) -> None:
    assert count_least_matching(words) == least


def test_the_static_factor_never_lifts_a_tier_over_the_next_better_one() -> None:
    ordered = [POINTS[tier] for tier in Tier]
    most = 1 + MAX_RANK / RANK_UNIT
    for better, worse in pairwise(ordered):
        assert worse * most < better


def test_scores_are_exact_in_32_bit_floats() -> None:
    word = POINTS[Tier.EXACT] + 40 + 10
    most = MAX_WORDS * word * max(FIELD_BOOSTS.values()) * (RANK_UNIT + MAX_RANK)
    # tantivy multiplies by a logarithm: leave room for a few units in the last place.
    assert most < 2**24 / 4


def test_later_stages_only_add() -> None:
    query = read_query({"q": ["misspelled word"]})
    clauses = []
    for stage in range(len(STAGES)):
        plan = build_plan(query, stage=stage, visibility=Visibility())
        clauses.append({clause for word in plan.words for clause in word})
    assert clauses[0] < clauses[1] < clauses[2] < clauses[3]


@pytest.mark.parametrize(
    ("q", "stages"),
    [
        ("", [0]),
        ("12345", [0]),
        ('"some phrase" -not', [0]),
        ("ab", [0]),
        ("abcd ", [0, 1, 3]),
        ("abcdef", [0, 1, 2, 3]),
    ],
)
def test_stages_that_can_find_nothing_more_are_left_out(q: str, stages: list[int]) -> None:
    assert list_stages(parse_text(q)) == stages


def test_rank_prefers_short_titles_and_large_weights() -> None:
    assert rank_document(title_words=1, weight=None) > rank_document(title_words=2, weight=None)
    weights = [None, 0.0, -5.0, 1e3, 1e6, 1e8, 1e300, float("inf"), float("nan")]
    ranks = [rank_document(title_words=1, weight=weight) for weight in weights]
    assert ranks[0] == ranks[1] == ranks[2] < ranks[3] < ranks[4] < ranks[5] == ranks[6] == MAX_RANK
    assert ranks[7] == ranks[8] == ranks[0]
    assert rank_document(title_words=0, weight=None) <= MAX_RANK

from __future__ import annotations

from itertools import pairwise

import pytest

from search.plan import (
    ADJACENCY_POINTS,
    BODY,
    FIELD_BOOSTS,
    LENGTH_POINTS,
    LENGTHS,
    MAX_RANK,
    PHRASE_POINTS,
    POINTS,
    RANK_UNIT,
    STAGES,
    SURPLUS_POINTS,
    TITLE,
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


@pytest.mark.parametrize("boost", FIELD_BOOSTS.values())
def test_neither_lengths_nor_the_static_factor_lift_a_tier_over_the_next_better_one(
    boost: int,
) -> None:
    factor = 1 + MAX_RANK / RANK_UNIT
    for better, worse in pairwise(Tier):
        most = POINTS[worse] * boost + max(LENGTH_POINTS.get(worse, {0: 0}).values())
        assert most * factor < POINTS[better] * boost


def test_an_exact_word_of_the_body_beats_a_misspelled_one_of_the_title() -> None:
    typo = POINTS[Tier.TYPO] * FIELD_BOOSTS[TITLE] + max(LENGTH_POINTS[Tier.TYPO].values())
    assert typo * (1 + MAX_RANK / RANK_UNIT) < POINTS[Tier.EXACT] * FIELD_BOOSTS[BODY]


def test_what_the_typed_word_lacks_and_exchanged_letters_are_worth_more() -> None:
    plan = build_plan(read_query({"q": ["alloys"]}), stage=2, visibility=Visibility())
    extras = {c.tier: c.extras for c in plan.words[0] if c.field == TITLE}
    assert extras[Tier.EXACT] == ()
    assert extras[Tier.PREFIX] == ((LENGTHS, "7", 9), (LENGTHS, "8", 6), (LENGTHS, "9", 3))
    assert extras[Tier.TWO_TYPOS] == ((LENGTHS, "6", 1), (LENGTHS, "7", 2), (LENGTHS, "8", 3))
    exchanged = ["laloys", "alolys", "allyos", "allosy"]
    assert extras[Tier.TYPO] == ((LENGTHS, "7", 5), *((TITLE, word, 5) for word in exchanged))


def test_scores_are_exact_in_32_bit_floats() -> None:
    words = MAX_WORDS * max(POINTS[Tier.EXACT], PHRASE_POINTS)
    pairs = (MAX_WORDS - 1) * ADJACENCY_POINTS
    points = (words + pairs) * max(FIELD_BOOSTS.values()) + SURPLUS_POINTS
    most = points * (RANK_UNIT + MAX_RANK)
    # tantivy multiplies by a logarithm: leave room for a few units in the last place.
    assert most < 2**24 / 4


@pytest.mark.parametrize(
    "q",
    [
        "".join(chr(0x4E00 + number) for number in range(400)),
        " ".join(f'"{chr(0x4E00 + number)}"' for number in range(100)),
        "a b c d e f g h i j k l m n " + '"x y" ' * 50,
    ],
)
def test_no_query_is_worth_more_points_than_are_exact(q: str) -> None:
    plan = build_plan(read_query({"q": [q]}), stage=0, visibility=Visibility())
    words = [max(clause.points for clause in word) for word in (*plan.words, *plan.surplus)]
    boost = max(FIELD_BOOSTS.values())
    pairs = len(plan.pairs) * ADJACENCY_POINTS * boost
    phrases = len(plan.scored_phrases) * PHRASE_POINTS * boost
    assert sum(words) + pairs + phrases <= 6_560
    assert all(points > 0 for points in words)
    assert plan.scored_phrases + plan.unscored_phrases == plan.phrases


def test_later_stages_only_add() -> None:
    query = read_query({"q": ["misspelled word"]})
    clauses = []
    for stage in range(len(STAGES)):
        plan = build_plan(query, stage=stage, visibility=Visibility())
        clauses.append({clause for word in plan.words for clause in word})
    assert clauses[0] < clauses[1] < clauses[2] < clauses[3]


def test_of_a_long_prefix_with_a_typo_its_beginning_is_looked_for() -> None:
    query = read_query({"q": ["dataintegrityviolatoin"]})
    [word] = build_plan(query, stage=3, visibility=Visibility()).words
    wanted = {clause.tier: clause.word for clause in word}
    assert wanted.pop(Tier.PREFIX_TYPO) == "dataintegrityvi"
    assert set(wanted.values()) == {"dataintegrityviolatoin"}


@pytest.mark.parametrize(("q", "may"), [("", False), ("a b", False), ("a b c", True)])
def test_documents_may_lack_words_from_three_words_on(q: str, may: bool) -> None:
    plan = build_plan(read_query({"q": [q]}), stage=0, visibility=Visibility())
    assert plan.may_lack_words is may
    assert not plan.require_all_words().may_lack_words


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

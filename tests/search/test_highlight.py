from __future__ import annotations

import random
import time

import pytest

from search.distance import is_within, is_within_prefix
from search.highlight import LEAST_SCANNED_WORDS, PASSAGE_CHARS, Highlighter, Range
from search.plan import STAGES, Plan, Visibility, build_plan
from search.query import read_query
from search.text import to_nfc
from tests.search.contract import HOSTILE


def plan_of(q: str) -> Plan:
    query = read_query({"q": [q]})
    return build_plan(query, stage=len(STAGES) - 1, visibility=Visibility())


def marked(text: str, ranges: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in ranges]


def highlight_title(title: str, plan: Plan) -> list[Range]:
    return Highlighter(plan).mark(title, "")[0]


def cut_passage(body: str, plan: Plan) -> tuple[str, list[Range]]:
    _, text, ranges = Highlighter(plan).mark("", body)
    return text, ranges


@pytest.mark.parametrize(
    ("q", "title", "hits"),
    [
        ("istnbul", "İstanbul Boğazı", ["İstanbul"]),
        ("agac ", "Bir ağaç, iki AĞAÇ", ["ağaç", "AĞAÇ"]),
        ("istan", "Istanbulspor", ["Istanbulspor"]),
        ("isatn", "İstanbul", ["İstanbul"]),
        ("ozbekiston", "🎉 Oʻzbekiston 🎉", ["Oʻzbekiston"]),
        ("cafe", "le cafe\u0301 noir", ["café"]),
        ('"new york"', "new new york york", ["new", "york"]),
        ("a1234", "a1234 a1235", ["a1234"]),
        ("-york new", "new york", ["new"]),
        ("10kg ", "\U0001f600 10㎏ 10kg", ["10㎏", "10kg"]),
        ("1 2kg ", "1½kg 東½", ["1", "½kg", "½"]),
        ('"ハハ"', "パパ ハハ ﾊﾊ", ["ハハ", "ﾊﾊ"]),
        ("", "anything", []),
    ],
)
def test_hits_are_marked_in_their_own_spelling(q: str, title: str, hits: list[str]) -> None:
    nfc = to_nfc(title)
    assert marked(nfc, highlight_title(nfc, plan_of(q))) == hits


def test_a_passage_surrounds_the_best_hit() -> None:
    body = "x " * 500 + "one lonely hit " + "y " * 500 + "hit after hit, hit upon hit " + "z " * 500
    text, ranges = cut_passage(body, plan_of("hit "))
    assert len(text) <= PASSAGE_CHARS
    assert marked(text, ranges) == ["hit"] * 4
    assert "lonely" not in text


def test_a_passage_begins_with_the_body_when_the_hit_is_near() -> None:
    body = "one hit " + "alpha " * 200
    text, ranges = cut_passage(body, plan_of("hit "))
    assert text == body[:PASSAGE_CHARS]
    assert ranges == [(4, 7)]


def test_a_passage_without_a_hit_is_the_beginning() -> None:
    body = "alpha " * 200
    assert cut_passage(body, plan_of("zzzz")) == (body[:PASSAGE_CHARS], [])
    assert cut_passage("", plan_of("x")) == ("", [])


def test_a_word_longer_than_the_passage_is_marked_as_far_as_it_is_shown() -> None:
    long_word = "eyJhbGciOiJSUzI1NiIs" * 20
    text, ranges = cut_passage(f"Authorization: Bearer {long_word} denied", plan_of("eyjhb"))
    assert marked(text, ranges) == [long_word[: PASSAGE_CHARS - len("Authorization: Bearer ")]]
    text, ranges = cut_passage(long_word, plan_of("eyjhb"))
    assert ranges == [(0, PASSAGE_CHARS)]


def test_a_word_that_begins_before_the_passage_is_marked_in_it() -> None:
    body = "x" * 300 + "-hit hit hit " + "y" * 300
    text, ranges = cut_passage(body, plan_of("hit xxx"))
    assert marked(text, ranges) == ["x" * 39, *["hit"] * 3]


def test_ranges_are_within_the_passage_for_any_text() -> None:
    rng = random.Random(4)
    alphabet = "ab e\u0301İ🎉ʻ'\u200b-\n東"
    for _ in range(300):
        body = to_nfc("".join(rng.choice(alphabet) for _ in range(rng.randrange(600))))
        text, ranges = cut_passage(body, plan_of("ab ea"))
        assert text in body
        assert len(text) <= PASSAGE_CHARS
        assert all(0 <= a < b <= len(text) for a, b in ranges)
        assert ranges == sorted(ranges)


@pytest.mark.parametrize("q", HOSTILE)
def test_any_query_can_be_highlighted_quickly(q: str) -> None:
    # Of the processor, so that a busy machine does not matter.
    started_at = time.thread_time()
    cut_passage("lorem ipsum dolor sit amet " * 20_000, plan_of(q))
    assert time.thread_time() - started_at < 2


def test_a_page_of_long_texts_is_highlighted_quickly() -> None:
    words = [f"{a}rticl{b}" for a in "abcdefghijklmno" for b in "abcdefghijklmno"]
    body = " ".join(words * 90)
    highlighter = Highlighter(plan_of("article wonderfull misspeling"), hits=100)
    started_at = time.thread_time()
    for _ in range(100):
        highlighter.mark(body, body)
    assert time.thread_time() - started_at < 1


def test_what_short_texts_leave_is_for_the_long_ones_after_them() -> None:
    highlighter = Highlighter(plan_of("hit "), hits=3)
    for _ in range(2):
        highlighter.mark("short", "short")
    body = "x " * 15_000 + "hit"
    assert marked(*highlighter.mark("", body)[1:]) == ["hit"]


def test_every_hit_gets_a_look_at_its_first_words_however_many_there_are() -> None:
    highlighter = Highlighter(plan_of("hit "), hits=100)
    text = "x " * (LEAST_SCANNED_WORDS - 1) + "hit hit " * 20_000
    for _ in range(100):
        title_ranges, passage, ranges = highlighter.mark(text, text)
        assert marked(text, title_ranges) == ["hit"]
        assert marked(passage, ranges) == ["hit"]


def test_without_time_a_hit_is_shown_without_marks() -> None:
    body = "hit " * 100
    highlighter = Highlighter(plan_of("hit "), count_seconds_left=lambda: -1)
    assert highlighter.mark("hit", body) == ([], body[:PASSAGE_CHARS], [])
    highlighter = Highlighter(plan_of("hit "), count_seconds_left=lambda: 0.001)
    assert highlighter.mark("hit", body) == ([(0, 3)], body[:PASSAGE_CHARS], [])


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [
        ("", "ab", 2),
        ("abc", "abc", 0),
        ("abc", "acb", 1),
        ("abc", "ab", 1),
        ("abcd", "badc", 2),
        ("ca", "abc", 3),
        ("istnbul", "istanbul", 1),
    ],
)
def test_distance_is_optimal_string_alignment(left: str, right: str, distance: int) -> None:
    for edits in range(4):
        assert is_within(left, right, edits) == (distance <= edits)
        assert is_within(right, left, edits) == (distance <= edits)


def test_a_beginning_may_be_within_reach() -> None:
    assert is_within_prefix("isatn", "istanbul", 1)
    assert is_within_prefix("isan", "istanbul", 1)
    assert not is_within_prefix("xyan", "istanbul", 1)
    assert not is_within_prefix("istanbulx", "ist", 1)
    for begun in ("conxne", "xconne", "onnect", "ocnnect", "conn", "conne", "connectionless"):
        assert is_within_prefix("conne", begun, 1), begun
    for begun in ("", "con", "nnect", "cxxne", "xconnx"):
        assert not is_within_prefix("conne", begun, 1), begun

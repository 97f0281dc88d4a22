from __future__ import annotations

from typing import Any

import pytest

from search.errors import InvalidQuery
from search.query import (
    MAX_WORDS,
    KeywordFilter,
    Sort,
    StatusFilter,
    parse_text,
    read_query,
    to_microseconds,
)
from tests.search.contract import HOSTILE


def read(**parameters: Any) -> Any:
    return read_query({name: [value] for name, value in parameters.items()})


# --- the language of q ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "words", "is_prefix"),
    [
        ("New York", ("new", "york"), True),
        ("New York ", ("new", "york"), False),
        ("New York\t", ("new", "york"), False),
        ("foo-bar", ("foo", "bar"), True),
        ("http://x.org/a", ("http", "x", "org", "a"), True),
        ("unknown:thing", ("unknown", "thing"), True),
        ('new "york"', ("new",), False),
        ("new -york", ("new",), False),
        ("new kind:record", ("new",), False),
        ("kind:record new", ("new",), True),
        ("", (), False),
    ],
)
def test_the_last_word_is_a_prefix_unless_something_follows(
    q: str, words: tuple[str, ...], is_prefix: bool
) -> None:
    text = parse_text(q)
    assert (text.words, text.last_is_prefix) == (words, is_prefix)
    assert text.warnings == ()


def test_phrases_and_exclusions_are_folded() -> None:
    text = parse_text('a "İstanbul Boğazı" -Ağaç -"Kız Kulesi" -foo-bar')
    assert text.words == ("a",)
    assert text.phrases == (("istanbul", "bogazi"),)
    assert text.excluded == (("agac",), ("kiz", "kulesi"), ("foo", "bar"))


def test_the_places_of_plain_words_are_known() -> None:
    q = 'é  b -c "d e" kind:error foo:bar status:x -1 " f'
    spans = parse_text(q).spans
    assert [q[start:end] for start, end in spans] == ["é", "b", "foo:bar", "status:x", "-1", "f"]


def test_fields_filter() -> None:
    text = parse_text('kind:record,error Source:cities -status:5xx outcome:"failed" x')
    assert text.filters == (
        KeywordFilter("kind", ("error", "record")),
        KeywordFilter("source", ("cities",)),
        StatusFilter(((500, 599),), negated=True),
        KeywordFilter("outcome", ("failed",)),
    )
    assert text.words == ("x",)


@pytest.mark.parametrize(
    ("q", "words", "warned"),
    [
        ("status:lots", ("status", "lots"), "lots"),
        ("kind:thing", ("kind", "thing"), "thing"),
        ('"new york', ("new", "york"), "quotation"),
        ("new AND york", ("new", "and", "york"), "AND"),
        ("ist*", ("ist",), "*"),
        ("(a OR b)", ("a", "or", "b"), "("),
        ("new - york", ("new", "york"), "-"),
        ("(", (), "no word"),
        ('"', (), "no word"),
        ("🤷\u200d", ("🤷",), None),
    ],
)
def test_odd_syntax_is_words_with_a_warning(
    q: str, words: tuple[str, ...], warned: str | None
) -> None:
    text = parse_text(q)
    assert text.words == words
    if warned is None:
        assert text.warnings == ()
    else:
        assert any(warned in warning for warning in text.warnings), text.warnings


def test_words_beyond_the_limit_only_rank_and_a_warning_says_so() -> None:
    text = parse_text('"a b" -c ' + "d " * 30 + "e f e")
    assert text.phrases == (("a", "b"),)
    assert text.excluded == (("c",),)
    assert text.words == ("d",) * MAX_WORDS
    assert text.surplus == ("e", "f")
    assert not text.last_is_prefix
    assert any("21 more" in warning for warning in text.warnings)


def test_phrases_and_exclusions_are_neither_cut_nor_counted() -> None:
    long = " ".join(f"w{number}" for number in range(20))
    text = parse_text(f'"{long}" -"{long}" {"d " * MAX_WORDS}')
    assert text.phrases == text.excluded == (tuple(long.split()),)
    assert (len(text.words), text.surplus, text.warnings) == (MAX_WORDS, (), ())


@pytest.mark.parametrize(
    ("q", "words", "excluded"),
    [
        ("exit code -1", ("exit", "code", "1"), ()),
        ("-0500", ("0500",), ()),
        ("a -1x", ("a",), (("1x",),)),
        ('a -"1"', ("a",), (("1",),)),
        ("a -id:1", ("a",), (("id", "1"),)),
    ],
)
def test_a_minus_before_digits_alone_is_no_exclusion(
    q: str, words: tuple[str, ...], excluded: tuple[tuple[str, ...], ...]
) -> None:
    text = parse_text(q)
    assert (text.words, text.excluded) == (words, excluded)


@pytest.mark.parametrize("q", HOSTILE)
def test_no_text_is_refused_for_its_syntax(q: str) -> None:
    read(q=q)


# --- parameters -------------------------------------------------------------------------------


def test_nothing_asked_browses_everything_newest_first() -> None:
    query = read_query({})
    assert query.text.is_empty
    assert (query.sort, query.size) == (Sort.NEWEST, 20)
    assert read(q="x").sort is Sort.SCORE
    assert read(q="x", sort="time").sort is Sort.OLDEST


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("q", "x" * 401),
        ("q", "a\x00b"),
        ("kind", "records"),
        ("kind", ","),
        ("outcome", "ok"),
        ("source", "a b"),
        ("source", "../x"),
        ("status", "4x4"),
        ("status", "503..500"),
        ("status", "-1"),
        ("status", "٤٠٤"),
        ("since", "yesterday"),
        ("since", "2026-02-30"),
        ("until", "2026-13-01T00:00:00Z"),
        ("until", "0001-01-01T00:00:00+14:00x"),
        ("sort", "rank"),
        ("sort", "score,time"),
        ("size", "0"),
        ("size", "-1"),
        ("size", "101"),
        ("size", "1000000000"),
        ("size", "1e2"),
        ("size", "٣"),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "A" * 10_000),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(field: str, value: str) -> None:
    with pytest.raises(InvalidQuery) as raised:
        read(**{field: value})
    assert list(raised.value.fields) == [field]
    assert raised.value.status_code == 400
    assert raised.value.fields[field][0]


def test_since_after_until_is_refused() -> None:
    with pytest.raises(InvalidQuery) as raised:
        read(since="2026-01-02", until="2026-01-01")
    assert list(raised.value.fields) == ["since"]


def test_four_hundred_characters_are_code_points() -> None:
    assert read(q="🎉" * 400).raw == "🎉" * 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-01", "2026-01-01T00:00:00+00:00"),
        ("2026-01-01T12:00", "2026-01-01T12:00:00+00:00"),
        ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00+00:00"),
        ("2026-01-01T12:00:00+03:00", "2026-01-01T09:00:00+00:00"),
        ("2026-01-01T12:00:00 03:00", "2026-01-01T09:00:00+00:00"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999+00:00"),
    ],
)
def test_times_are_exact_and_utc_by_default(value: str, expected: str) -> None:
    from datetime import datetime

    assert read(since=value).since_us == to_microseconds(datetime.fromisoformat(expected))


def test_lists_join_over_repeated_parameters_and_unknown_ones_are_ignored() -> None:
    query = read_query({"kind": ["record", "error"], "status": ["404, 5XX"], "utm": ["x"]})
    assert query.filters == (
        KeywordFilter("kind", ("error", "record")),
        StatusFilter(((404, 404), (500, 599))),
    )


def test_the_fingerprint_tells_questions_apart_but_not_pages() -> None:
    asked = read(q="a", kind="record")
    assert asked.fingerprint == read(q="a", kind="record", size="5").fingerprint
    others = [read(q="a "), read(q="a"), read(q="a", kind="error"), read(q="a", sort="time")]
    assert len({asked.fingerprint, *(other.fingerprint for other in others)}) == 5

"""Asked of the embedded index; the contract of both engines compares whole answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.answers import show_hits
from search.engines.base import Deadline
from search.engines.tantivy import TantivyEngine
from search.highlight import PASSAGE_CHARS
from search.plan import Visibility
from search.query import Kind
from search.services import find_hits
from search.suggestion import suggest_text
from tests.search.contract import STAFF, ask, fill, make_document

NAMES = [
    *("İstanbul", "New York", "Ankara", "Москва", "Oʻzbekiston", "São Paulo"),
    *("Gateway timeout", "L'Aquila", "New Haven", "DataIntegrityViolationException"),
]


@pytest.fixture
def engine(tmp_path: Path) -> TantivyEngine:
    engine = TantivyEngine(tmp_path)
    with engine.start_rebuild() as rebuild:
        rebuild.publish()
    fill(engine, [make_document(name, pk=pk) for pk, name in enumerate(NAMES, 1)])
    fill(engine, [make_document("HTTP Error", body="connection refused", pk=99)])
    return engine


def suggest(
    engine: TantivyEngine, q: str, visibility: Visibility = STAFF, **parameters: str
) -> str | None:
    query = ask(q, **parameters)
    deadline = Deadline(60)
    plan, found = find_hits(engine.open(), query, visibility, deadline)
    return suggest_text(query, plan, show_hits(found.hits[: query.size], plan, deadline))


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("istnbul ", "istanbul"),
        ("  aknara", "ankara"),
        ("isatnb", "istanbul"),
        ("new yrok ", "new york"),
        ("nwe yrok ", "new york"),
        ("масква", "москва"),
        ("ozbekistn ", "oʻzbekiston"),
        ("sao pualo", "sao paulo"),
        ("l'aqiula", "l'aquila"),
        ("dataintegrtyviolationex", "dataintegrityviolationexception"),
        ("source:cities -haven New  yrok", "source:cities -haven New  york"),
        ("connection rfus", "connection refused"),
        ('"new york" aknara timeuot gatway', '"new york" ankara timeout gateway'),
    ],
)
def test_misspelled_words_are_put_right_and_the_others_kept(
    engine: TantivyEngine, q: str, expected: str
) -> None:
    fill(engine, [make_document("Ankara new york gateway timeout", pk=50)])
    assert suggest(engine, q) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("sensor source:sensor ", "sensors source:sensor"),
        ("sensosr -sensosr", "sensors -sensosr"),
        ('sensosr -"no sensosr" topic:sensosr', 'sensors -"no sensosr" topic:sensors'),
        (
            'sensosr  Source:sensor,sensosr -kind:error "main  sensors"',
            'sensors  Source:sensor,sensosr -kind:error "main  sensors"',
        ),
    ],
)
def test_filters_exclusions_and_phrases_stay_as_they_were_typed(
    engine: TantivyEngine, q: str, expected: str
) -> None:
    fill(engine, [make_document("Main Sensors", source="sensor", pk=50)])
    assert suggest(engine, q) == expected


@pytest.mark.parametrize(
    "q",
    ["istanbul", "ISTANBUL ", "ista", "new york", "new haven ", "zzzzzz", "", "-new", "(", "17"],
)
def test_what_is_found_as_it_was_typed_or_not_at_all_is_left_alone(
    engine: TantivyEngine, q: str
) -> None:
    assert suggest(engine, q) is None


def test_a_word_that_the_passage_cuts_is_not_suggested(engine: TantivyEngine) -> None:
    body = "a gatewayz " + "y" * (PASSAGE_CHARS - 19) + " gateways and more"
    assert body[:PASSAGE_CHARS].endswith(" gateway")
    fill(engine, [make_document("x", body=body, source="long", pk=70)])
    assert suggest(engine, "gateway source:long ") == "gatewayz source:long"


def test_only_the_first_page_in_the_order_of_scores_tells(engine: TantivyEngine) -> None:
    assert suggest(engine, "istnbul ", sort="-time") is None


def test_a_word_that_one_may_not_see_is_not_suggested(engine: TantivyEngine) -> None:
    secret: dict[str, Any] = {"kind": Kind.ERROR, "source": "theirs"}
    fill(engine, [make_document("confidential", pk=60, **secret)])
    assert suggest(engine, "confidentail ") == "confidential"
    assert suggest(engine, "confidentail ", Visibility()) is None

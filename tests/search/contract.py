"""What every engine owes. A test module subclasses EngineContract and gives an `engine` fixture
with an empty index.

Most of it compares the engine with the oracle, which works the plan out in plain Python.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from search.cursor import Cursor, Position
from search.documents import Document, build_document
from search.engines.base import Deadline, Engine, Found, IndexMissing, Summary
from search.errors import SearchTimeout
from search.highlight import Highlighter
from search.plan import Plan, Visibility
from search.query import Kind, SearchQuery, read_query
from search.services import find_hits
from tests.search import oracle

STAFF = Visibility(all_errors=True)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
PATIENT = 60.0


def make_document(title: str = "", pk: int = 1, **fields: Any) -> Document:
    given: dict[str, Any] = {
        "kind": Kind.RECORD,
        "source": "cities",
        "outcome": "delivered",
        "status": 200,
        "body": "",
        "data": {"name": title},
        "occurred_at": T0,
        "weight": None,
    }
    return build_document(**(given | fields), title=title, pk=pk)


def fill(engine: Engine, documents: Iterable[Document]) -> list[Document]:
    stored = list(documents)
    assert engine.apply(upserts=stored, deletes=[]).rejected == {}
    return stored


def ask(q: str = "", **parameters: str) -> SearchQuery:
    return read_query({"q": [q], **{name: [value] for name, value in parameters.items()}})


def find(engine: Engine, query: SearchQuery, visibility: Visibility = STAFF) -> tuple[Plan, Found]:
    return find_hits(engine.open(), query, visibility, Deadline(PATIENT))


def count(
    engine: Engine, query: SearchQuery, visibility: Visibility = STAFF
) -> tuple[Found, Summary]:
    _, found = find_hits(engine.open(), query, visibility, Deadline(PATIENT), is_counted=True)
    assert found.summary is not None
    return found, found.summary


def titles(engine: Engine, q: str, **parameters: str) -> list[str]:
    _, found = find(engine, ask(q, **parameters))
    return [hit.shown["title"] for hit in found.hits]


def read_pages(
    engine: Engine, query: SearchQuery, visibility: Visibility = STAFF
) -> list[tuple[str, int | None]]:
    """(id, score) of all hits, a page at a time, as a program reads them."""
    hits: list[tuple[str, int | None]] = []
    plan, found = find(engine, query, visibility)
    while True:
        page = found.hits[: query.size]
        hits += [(hit.shown["id"], hit.score_units) for hit in page]
        if len(found.hits) <= query.size:
            return hits
        last = Position(value=page[-1].value, tie=page[-1].tie, seen=len(hits))
        at_last = SearchQuery(
            raw=query.raw,
            text=query.text,
            filters=query.filters,
            since_us=query.since_us,
            until_us=query.until_us,
            sort=query.sort,
            size=query.size,
            cursor=Cursor(stage=plan.stage, position=last),
        )
        plan, found = find(engine, at_last, visibility)


NAMES = [
    *("İstanbul", "Istanbulspor", "Istres", "Ankara", "Angers", "Izmir", "İzmit", "New York"),
    *("York", "New Haven", "Newark", "Yokohama", "Oʻzbekiston", "Toshkent", "Tashkent"),
    *("Москва", "Московский", "القاهرة", "東京都", "Straße 17", "route 66", "host-10.0.0.1", "🎉"),
]
BODIES = [
    "",
    "connection refused by host istanbul",
    "gateway timeout while fetching ankara",
    "new york is not york, nor new haven",
    "was refused a connection 504",
]
QUERIES = [
    *("istanbul", "istanbul ", "istnbul", "istan", "isatn", "ISTANBUL", "ıstanbul", "i", "is"),
    *("new york", "york new", "new yrok ", "newyork", "new", '"new york"', '"york new"'),
    *("new york -haven", '-"new york"', "-new", "refused connection host ankara", "timeout 504"),
    *("москва", "масква", "القاهره", "東京", "strasse", "17", "1", "10.0.0.1", "66 route", "🎉"),
    *("ozbekiston", "o'zbekiston", "tashkent", "toshknet", "angers york izmir ankara"),
    *(
        "new york havn ",
        "new yrok havn",
        "york new zzzzzz",
        "refused by hots ankara",
        "new york ist",
    ),
    *("connection", "conection refusd", "zzzzzz", "refused", "kind:error refused", "status:5xx"),
    *("source:cities,osm new", "-source:cities new", "outcome:failed", '"refused"', "\u200b", "("),
    *("!!! kind:record", "-17", "-504 timeout", "a b c d e f g h i j york new refused haven host"),
    '"new" "york" is not haven nor and or by was a the of "refused" connection 504 x y',
    " ".join(["x"] * 12 + NAMES),
]

MESSAGES = [
    "[Errno 111] connection refused by host istanbul",
    "Bağlantı reddedildi: İstanbul sunucusundan yanıt gelmiyor",
    "Соединение отклонено удалённым узлом",
    "انقطع الاتصال بالخادم",
    "SQLTransientConnectionException: timed out after 30s, code E1234",
    "DataIntegrityViolationException in PaymentGatewayClient.java:412",
    "aaaaaaaaaaaaaaaaaaaaab of 𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷𐐸𐐹",
]
# What is typed, and the words of one message that are marked for it.
HALF_TYPED = [
    ("connetci", ["connection"]),
    ("onnecti", ["connection"]),
    ("xonnecti", ["connection"]),
    ("conenct", ["connection"]),
    ("refuserd by hots istnab", ["refused", "by", "host", "istanbul"]),
    ("refused connetci", ["connection", "refused"]),
    ("connetci ", []),
    ("conx", ["connection"]),
    ("cnx", []),
    ("111 conneci", ["111", "connection"]),
    ("c0nnecti", []),
    ("e123x", []),
    ("baglatni", ["Bağlantı"]),
    ("SUNUCUSUNDNA", ["sunucusundan"]),
    ("reddedıldı sunucsun", ["reddedildi", "sunucusundan"]),
    ("содинени", ["Соединение"]),
    ("откланен", ["отклонено"]),
    ("сединен", ["Соединение"]),
    ("cоединен", []),  # begins with a Latin letter
    ("اللاتصا", ["الاتصال"]),
    ("sqltransietncon", ["SQLTransientConnectionException"]),
    ("sqltransietnconnectionexcep", ["SQLTransientConnectionException"]),
    ("dataintegrtyviol", ["DataIntegrityViolationException"]),
    ("in pyamentgate", ["in", "PaymentGatewayClient"]),
    ("aaaaaabaaaaaaaaaaa", ["aaaaaaaaaaaaaaaaaaaaab"]),
    ("𐐨𐐩𐐫𐐪𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷", ["𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷𐐸𐐹"]),
]

RECORD_SOURCES = ["cities", "osm"]
ERROR_SOURCES = ["cities", "osm", "mine", None]
DELAYS = [timedelta(microseconds=us) for us in (0, 1, 500_000, 86_400_000_000)]


def build_mixture(rng: random.Random, size: int) -> list[Document]:
    documents = []
    for pk in range(1, size + 1):
        is_error = rng.random() < 0.3
        documents.append(
            make_document(
                " ".join(rng.sample(NAMES, rng.choice([1, 1, 1, 2, 3]))),
                pk=pk,
                kind=Kind.ERROR if is_error else Kind.RECORD,
                source=rng.choice(ERROR_SOURCES if is_error else RECORD_SOURCES),
                outcome=rng.choice(["failed", None]) if is_error else "delivered",
                status=rng.choice([404, 500, 503, None]) if is_error else 200,
                body=rng.choice(BODIES),
                occurred_at=T0 + rng.choice(DELAYS),
                weight=rng.choice([None, 0, 12.5, 1e6]),
            )
        )
    return documents


class EngineContract:
    # --- the plan -----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    def test_it_finds_what_the_plan_says_in_the_order_that_the_plan_says(
        self, engine: Engine, seed: int
    ) -> None:
        documents = fill(engine, build_mixture(random.Random(seed), 150))
        for q, sort in itertools.product(QUERIES, ("score", "time", "-time")):
            query = ask(q, sort=sort, size="7")
            stage, expected = oracle.answer(documents, query, STAFF)
            plan, found = find(engine, query)
            assert (plan.stage, found.total) == (stage, len(expected)), q
            got = [(hit.shown["id"], hit.score_units) for hit in found.hits]
            wanted = [(i, units if sort == "score" else None) for i, units in expected]
            assert got == wanted[:8], (q, sort)

    @pytest.mark.parametrize("sort", ["score", "time", "-time"])
    def test_pages_join_to_the_whole_answer(self, engine: Engine, sort: str) -> None:
        # Several commits, and so segments, with many equal scores and times.
        documents = build_mixture(random.Random(5), 240)
        for start in range(0, 240, 60):
            fill(engine, documents[start : start + 60])
        for q in ("", "new", "istanbul", "connection", "york new haven ankara", "new yrok haven"):
            query = ask(q, sort=sort, size="3")
            _, expected = oracle.answer(documents, query, STAFF)
            assert [i for i, _ in read_pages(engine, query)] == [i for i, _ in expected], q

    @pytest.mark.parametrize("sort", ["score", "time", "-time"])
    def test_a_scan_is_the_whole_answer_whatever_is_written_meanwhile(
        self, engine: Engine, sort: str
    ) -> None:
        documents = build_mixture(random.Random(23), 240)
        for start in range(0, 240, 60):
            fill(engine, documents[start : start + 60])
        for q in ("", "new", "istnbul"):
            query = ask(q, sort=sort, size="5")
            _, expected = oracle.answer(documents, query, STAFF)
            view = engine.open(is_pinned=True)
            plan, _ = find_hits(view, query, STAFF, Deadline(PATIENT))
            scan = view.scan(plan, order=oracle.ORDERS[query.sort], batch=7)
            first = next(scan)
            # Rows that arrive, change and go while it is read.
            fill(engine, [make_document("new istanbul", pk=pk) for pk in (1, 900, 901)])
            engine.apply(upserts=[], deletes=[documents[2].id])
            assert [hit.shown["id"] for hit in (first, *scan)] == [i for i, _ in expected], q
            view.close()
            documents = [d for d in documents if d.id not in ("record-1", documents[2].id)]
            documents = [d for d in documents if d.id not in ("record-900", "record-901")]
            documents += [make_document("new istanbul", pk=pk) for pk in (1, 900, 901)]

    def test_a_thousand_equal_scores_come_in_the_order_of_their_ties(self, engine: Engine) -> None:
        pks = list(range(1, 1_501))
        random.Random(3).shuffle(pks)
        for start in range(0, 1_500, 500):
            fill(engine, [make_document("equal line", pk=pk) for pk in pks[start : start + 500]])
        found = read_pages(engine, ask("equal", size="100"))
        assert [i for i, _ in found] == [f"record-{pk}" for pk in range(1, 1_501)]

    @pytest.mark.parametrize("sort", ["score", "time", "-time"])
    def test_a_page_neither_repeats_nor_skips_when_rows_arrive_between(
        self, engine: Engine, sort: str
    ) -> None:
        fill(engine, [make_document("river", pk=pk) for pk in range(100, 130)])
        query = ask("river", size="10", sort=sort)  # all at the same time
        plan, first = find(engine, query)
        fill(engine, [make_document("river", pk=pk) for pk in (*range(1, 50), 500)])
        last = first.hits[9]
        cursor = Cursor(plan.stage, Position(value=last.value, tie=last.tie, seen=10))
        rest = SearchQuery(query.raw, query.text, sort=query.sort, size=100, cursor=cursor)
        _, found = find(engine, rest)
        expected = [*range(110, 130), 500]
        assert [hit.shown["id"] for hit in found.hits] == [f"record-{pk}" for pk in expected]

    @pytest.mark.parametrize(
        ("q", "best"),
        [
            ("istnbul", "İstanbul"),
            ("ISTANBUL ", "İstanbul"),
            ("ıstanbl", "İstanbul"),
            ("istanb", "İstanbul"),
            ("isatnb", "İstanbul"),
            ("aknara", "Ankara"),
            ("o'zbekistan ", "Oʻzbekiston"),
            ("tokyo new york", "New York"),
        ],
    )
    def test_it_forgives_typos(self, engine: Engine, q: str, best: str) -> None:
        fill(engine, [make_document(name, pk=pk) for pk, name in enumerate(NAMES, 1)])
        assert titles(engine, q)[0] == best

    @pytest.mark.parametrize(
        "q",
        [
            *("dataintegrtyvi", "dataintegrtyviol", "dataintegrityvoilation"),
            *("dataintegrityviolatoinex", "dataintegrtyviolationexceptio"),
        ],
    )
    def test_it_forgives_a_typo_in_a_half_typed_word_of_any_length(
        self, engine: Engine, q: str
    ) -> None:
        names = ["DataIntegrityViolationException", "DataIntegrationException"]
        documents = fill(engine, [make_document(name, pk=pk) for pk, name in enumerate(names, 1)])
        query = ask(q)
        stage, expected = oracle.answer(documents, query, STAFF)
        plan, found = find(engine, query)
        assert plan.stage == stage
        assert [(hit.shown["id"], hit.score_units) for hit in found.hits] == expected
        assert found.hits[0].shown["title"] == names[0]
        assert Highlighter(plan).mark(names[0], "")[0] == [(0, len(names[0]))]

    def test_it_forgives_a_typo_in_a_half_typed_word_of_a_body(self, engine: Engine) -> None:
        names = [make_document(name, pk=pk) for pk, name in enumerate(NAMES, 1)]
        errors = [make_document("Error", body=text, pk=pk) for pk, text in enumerate(MESSAGES, 101)]
        documents = fill(engine, [*names, *errors])
        for q, marked in HALF_TYPED:
            query = ask(q)
            stage, expected = oracle.answer(documents, query, STAFF)
            plan, found = find(engine, query)
            assert (plan.stage, found.total) == (stage, len(expected)), q
            got = [(hit.shown["id"], hit.score_units) for hit in found.hits]
            assert got == expected[: len(got)], q
            marks = [
                [passage[start:end] for start, end in ranges]
                for hit in found.hits
                for _, passage, ranges in [Highlighter(plan).mark("", hit.shown["body"])]
            ]
            assert marked in marks if marked else not any(marks), q

    def test_a_typo_in_the_beginning_ranks_below_one_typo_and_above_two(
        self, engine: Engine
    ) -> None:
        bodies = ["mrable", "marbeltown", "morbel", "marble", "marbletown"]
        documents = [make_document("row", body=body, pk=pk) for pk, body in enumerate(bodies, 1)]
        fill(engine, [*documents, make_document("marbeltown", pk=9)])
        _, found = find(engine, ask("marble"))
        assert [hit.shown["body"] or hit.shown["title"] for hit in found.hits] == [
            *("marble", "marbeltown", "marbletown", "mrable", "marbeltown", "morbel")
        ]

    def test_exact_beats_prefix_beats_typo_beats_two_typos(self, engine: Engine) -> None:
        names = ["marbletown", "marbles", "marple", "marblle x", "morple", "marble"]
        fill(engine, [make_document(name, pk=pk) for pk, name in enumerate(names, 1)])
        found = titles(engine, "marble")
        assert found[0] == "marble"
        assert set(found[1:3]) == {"marbletown", "marbles"}
        assert set(found[3:5]) == {"marple", "marblle x"}
        assert found[5] == "morple"

    def test_neighbouring_words_rank_higher(self, engine: Engine) -> None:
        fill(
            engine,
            [make_document("port new haven", pk=1), make_document("new port haven", pk=2)],
        )
        assert titles(engine, "new port ") == ["new port haven", "port new haven"]

    def test_the_greater_weight_comes_first_among_equals(self, engine: Engine) -> None:
        weights = {1: None, 2: 1e3, 3: 1e6, 4: -5.0}
        fill(engine, [make_document("same", pk=pk, weight=w) for pk, w in weights.items()])
        _, found = find(engine, ask("same"))
        assert [hit.shown["id"] for hit in found.hits] == [
            *("record-3", "record-2", "record-1", "record-4")
        ]

    def test_a_word_with_a_digit_has_no_typos_but_may_be_a_prefix(self, engine: Engine) -> None:
        fill(engine, [make_document("order a12345", pk=1), make_document("order a12346", pk=2)])
        assert titles(engine, "a12345 ") == ["order a12345"]
        assert len(titles(engine, "a1234")) == 2
        assert titles(engine, "a1243") == []

    def test_a_later_stage_runs_only_when_the_earlier_finds_too_little(
        self, engine: Engine
    ) -> None:
        fill(engine, [make_document(f"harbour {pk}", pk=pk) for pk in range(1, 11)])
        fill(engine, [make_document("harbor town", pk=99)])
        plan, found = find(engine, ask("harbour ", size="10"))
        assert (plan.stage, found.total) == (0, 10)
        plan, found = find(engine, ask("harbour ", size="11"))
        assert plan.stage > 0
        assert found.total == 11

    @pytest.mark.parametrize("sort", ["score", "time", "-time"])
    def test_a_misspelled_word_of_three_is_not_given_up_while_a_later_stage_finds_it(
        self, engine: Engine, sort: str
    ) -> None:
        washers = [make_document(f"pressure washer model{pk}", pk=pk) for pk in range(1, 21)]
        documents = fill(engine, [*washers, make_document("bosch pressure washer", pk=100)])
        for q in ("bosc pressure washer ", "bosc pressure wash", "bosch presure washer "):
            query = ask(q, sort=sort)
            stage, expected = oracle.answer(documents, query, STAFF)
            found, summary = count(engine, query)
            assert (found.plan.stage, found.total) == (stage, len(expected)) == (1, 21), q
            assert sum(summary.facets["kind"].values()) == sum(summary.histogram.values()) == 21
            assert read_pages(engine, ask(q, sort=sort, size="4")) == [
                (i, units if sort == "score" else None) for i, units in expected
            ]
        assert titles(engine, "bosc pressure washer ")[0] == "bosch pressure washer"

    def test_where_no_stage_finds_all_words_the_first_with_enough_hits_answers(
        self, engine: Engine
    ) -> None:
        fill(engine, [make_document(f"pressure washer {pk}", pk=pk) for pk in range(1, 21)])
        fill(engine, [make_document("pressurs washer", pk=100)])
        plan, found = find(engine, ask("zzzzzz pressure washer "))
        assert (plan.stage, found.total) == (0, 20)
        # Too few for any stage: the last one answers.
        plan, found = find(engine, ask("zzzzzz pressure washer ", size="50"))
        assert (plan.stage, found.total) == (3, 21)

    def test_a_hit_of_all_words_counts_only_where_filters_let_it_pass(self, engine: Engine) -> None:
        fill(engine, [make_document(f"pressure washer {pk}", pk=pk) for pk in range(1, 21)])
        fill(engine, [make_document("bosch pressure washer", pk=100, source="osm")])
        for q in ("bosc pressure washer source:cities", "bosc pressure washer -bosch"):
            plan, found = find(engine, ask(f"{q} "))
            assert (plan.stage, found.total) == (0, 20), q

    def test_a_long_phrase_is_exact_whether_wanted_or_excluded(self, engine: Engine) -> None:
        line = "one two three four five six seven eight nine ten eleven twelve thirteen"
        others = [f"{line} {end}" for end in ("fourteen", "fifteen")]
        fill(engine, [make_document(title, pk=pk) for pk, title in enumerate(others, 1)])
        assert titles(engine, f'"{others[1]}"') == [others[1]]
        assert titles(engine, f'one -"{others[1]}"') == [others[0]]
        assert titles(engine, f'"{line} sixteen"') == []

    def test_more_phrases_than_score_must_all_stand_there(self, engine: Engine) -> None:
        words = [f"w{number}" for number in range(20)]
        documents = fill(
            engine,
            [
                make_document(" ".join(words), pk=1),
                make_document("", body=" ".join(words), pk=2),
                make_document(" ".join(words[:-1]), pk=3),
            ],
        )
        query = ask(" ".join(f'"{word}"' for word in words))
        _, expected = oracle.answer(documents, query, STAFF)
        _, found = find(engine, query)
        assert [(hit.shown["id"], hit.score_units) for hit in found.hits] == expected
        assert len(expected) == 2

    def test_a_pasted_line_finds_itself_among_thousands_that_are_nearly_equal(
        self, engine: Engine
    ) -> None:
        line = "2026-01-28 12:51:00 ERROR worker-12 timeout after 30s on /api/v2/items?id="
        fill(engine, [make_document(f"{line}{n}", pk=n) for n in range(1, 3_001)])
        query = ask(f"{line}2345", size="5")
        _, found = find(engine, query)
        assert found.hits[0].shown["id"] == "record-2345"
        assert found.total == 3_000

    def test_a_text_without_a_word_matches_nothing(self, engine: Engine) -> None:
        fill(engine, [make_document("row", pk=1)])
        for q in ("'", "!!!", "(((", "%_%", '""', "-", "\u200b"):
            for sort in ("score", "time", "-time"):
                found, summary = count(engine, ask(q, sort=sort))
                assert (found.total, found.hits, summary.histogram) == (0, [], {}), q
        assert titles(engine, "") == titles(engine, "  ") == ["row"]

    # --- filters and counts -------------------------------------------------------------------

    def test_filters_are_or_within_and_and_between(self, engine: Engine) -> None:
        documents = fill(engine, build_mixture(random.Random(11), 200))
        for parameters in (
            {"kind": "error"},
            {"kind": "record,error", "source": "osm"},
            {"source": "osm,mine", "outcome": "failed"},
            {"status": "404"},
            {"status": "5xx"},
            {"status": "404,500..502"},
            {"since": "2026-01-01T00:00:00.000001Z"},
            {"until": "2026-01-01T00:00:00.500000Z"},
            {"since": "2026-01-01", "until": "2026-01-02"},
            {"since": "2026-01-02", "until": "2026-01-02"},
        ):
            query = ask("", size="100", **parameters)
            _, expected = oracle.answer(documents, query, STAFF)
            assert [i for i, _ in read_pages(engine, query)] == [i for i, _ in expected], parameters

    @pytest.mark.parametrize(
        "visibility",
        [
            Visibility(),
            Visibility(own_sources=("mine",)),
            Visibility(own_sources=("mine", "osm"), archived_sources=("cities",)),
            STAFF,
        ],
    )
    def test_what_one_may_not_see_is_in_no_hit_total_or_facet(
        self, engine: Engine, visibility: Visibility
    ) -> None:
        documents = fill(engine, build_mixture(random.Random(13), 200))
        query = ask("", size="100")
        _, expected = oracle.answer(documents, query, visibility)
        found, summary = count(engine, query, visibility)
        assert found.total == len(expected) < 200 or visibility == STAFF
        assert sum(summary.facets["kind"].values()) == len(expected)
        assert sum(summary.histogram.values()) == len(expected)
        shown = {i for i, _ in read_pages(engine, query, visibility)}
        assert shown == {i for i, _ in expected}

    def test_facets_and_histogram_count_exactly(self, engine: Engine) -> None:
        documents = fill(engine, build_mixture(random.Random(17), 300))
        for q in ("", "new", "refused connection", "istnbul", "new yrok haven"):
            query = ask(q)
            _, expected = oracle.answer(documents, query, STAFF)
            matching = [d for d in documents if d.id in dict(expected)]
            _, summary = count(engine, query)
            for name in ("kind", "source", "outcome", "status"):
                values = [getattr(d, name) for d in matching if getattr(d, name) is not None]
                counted = {value: values.count(value) for value in set(values)}
                assert summary.facets[name] == counted, (q, name)
            starts = [d.at_us // summary.interval_us * summary.interval_us for d in matching]
            assert summary.histogram == {start: starts.count(start) for start in set(starts)}

    def test_it_knows_the_bounds_of_time(self, engine: Engine) -> None:
        assert engine.open().read_time_bounds() is None
        late = T0 + timedelta(days=3, microseconds=7)
        stored = fill(engine, [make_document(pk=1), make_document(pk=2, occurred_at=late)])
        assert engine.open().read_time_bounds() == (stored[0].at_us, stored[1].at_us)

    # --- the life of documents ----------------------------------------------------------------

    def test_what_was_applied_is_searchable_at_once(self, engine: Engine) -> None:
        before = engine.open(is_pinned=True)
        fill(engine, [make_document("fresh", pk=7)])
        assert titles(engine, "fresh") == ["fresh"]
        assert before.count() == 0

    def test_a_document_is_replaced_by_its_id(self, engine: Engine) -> None:
        fill(engine, [make_document("old name", pk=7)])
        fill(engine, [make_document("new name", pk=7)])
        assert titles(engine, "name") == ["new name"]
        assert engine.open().count() == 1

    def test_a_document_given_twice_in_a_batch_is_there_once(self, engine: Engine) -> None:
        fill(engine, [make_document("first", pk=7), make_document("second", pk=7)])
        assert titles(engine, "") == ["second"]

    def test_deleting_is_idempotent(self, engine: Engine) -> None:
        fill(engine, [make_document("gone", pk=7), make_document("kept", pk=8)])
        for _ in range(2):
            engine.apply(upserts=[], deletes=["record-7", "record-99"])
        assert titles(engine, "") == ["kept"]

    def test_what_to_delete_is_asked_for_after_the_documents(self, engine: Engine) -> None:
        fill(engine, [make_document("gone", pk=7)])
        absent = {"record-7", "record-8"}

        def upserts() -> Iterable[Document]:
            absent.discard("record-8")
            yield make_document("came", pk=8)

        def deletes() -> Iterable[str]:
            yield from sorted(absent)

        engine.apply(upserts=upserts(), deletes=deletes())
        assert titles(engine, "") == ["came"]

    def test_one_document_that_cannot_be_written_does_not_stop_the_others(
        self, engine: Engine
    ) -> None:
        far = make_document("beyond 64 bits", pk=7)
        broken = far._replace(at_us=2**70)
        applied = engine.apply(
            upserts=[make_document("before", pk=1), broken, make_document("after", pk=2)],
            deletes=[],
        )
        assert list(applied.rejected) == ["record-7"]
        assert applied.rejected["record-7"]
        assert set(titles(engine, "")) == {"before", "after"}

    def test_a_batch_that_breaks_off_leaves_the_index_as_it_was(self, engine: Engine) -> None:
        fill(engine, [make_document("there", pk=1)])

        def breaks_off() -> Iterable[Document]:
            yield make_document("half", pk=2)
            raise LookupError("the database went away")

        with pytest.raises(LookupError):
            engine.apply(upserts=breaks_off(), deletes=["record-1"])
        assert titles(engine, "") == ["there"]
        fill(engine, [make_document("later", pk=3)])
        assert set(titles(engine, "")) == {"there", "later"}

    def test_it_tells_which_documents_are_present(self, engine: Engine) -> None:
        fill(engine, [make_document("a", pk=pk) for pk in range(1, 30)])
        wanted = [f"record-{pk}" for pk in range(20, 50)] + ["error-1"]
        assert engine.open().find_present(wanted) == {f"record-{pk}" for pk in range(20, 30)}
        assert engine.open().find_present([]) == set()
        many = [make_document(f"thing {pk}", pk=pk) for pk in range(1000, 1400)]
        engine.apply(upserts=many, deletes=())
        engine.apply(upserts=(), deletes=["record-1003", "record-1390"])
        wanted = [f"record-{pk}" for pk in range(1000, 1400)]
        absent = set(wanted) - engine.open().find_present([*wanted, *wanted[:7]])
        assert absent == {"record-1003", "record-1390"}

    def test_a_rebuild_answers_only_after_it_is_published(self, engine: Engine) -> None:
        fill(engine, [make_document("old", pk=1)])
        with engine.start_rebuild() as rebuild:
            rebuild.apply(upserts=[make_document("new", pk=2), make_document("too", pk=3)])
            assert rebuild.open().count() == 2
            assert titles(engine, "") == ["old"]
            rebuild.publish()
        assert set(titles(engine, "")) == {"new", "too"}

    def test_a_rebuild_that_is_not_published_leaves_nothing(self, engine: Engine) -> None:
        fill(engine, [make_document("old", pk=1)])
        with engine.start_rebuild() as rebuild:
            rebuild.apply(upserts=[make_document("new", pk=2)])
        assert titles(engine, "") == ["old"]

    # --- trouble ------------------------------------------------------------------------------

    def test_a_spent_budget_is_a_timeout(self, engine: Engine) -> None:
        fill(engine, [make_document("slow", pk=1)])
        with pytest.raises(SearchTimeout):
            find_hits(engine.open(), ask("slow"), STAFF, Deadline(-1))

    def test_hostile_text_finds_nothing_or_something_but_never_fails(self, engine: Engine) -> None:
        fill(engine, build_mixture(random.Random(19), 40))
        for q in HOSTILE:
            find(engine, ask(q))

    def test_its_state_is_told(self, engine: Engine) -> None:
        status = engine.check()
        assert status.ok
        assert status.detail

    def test_without_an_index_it_says_so(self, empty_engine: Engine) -> None:
        with pytest.raises(IndexMissing):
            empty_engine.open()
        with pytest.raises(IndexMissing):
            empty_engine.apply(upserts=[], deletes=[])
        assert not empty_engine.check().ok


HOSTILE_SIGNS = """ " ( "" - -- -" : :: a: kind: kind:x status:9 * ? [ ] { } \\ NOT
AND ~2 title:^3~2
(((a{1,50}){1,50}){1,50}) /.*/ %00 {{7*7}} ${x} <script>alert(1)</script>"""
HOSTILE = [
    *HOSTILE_SIGNS.split(),
    *[
        "a AND (b OR",
        "[1 TO",
        "'; DROP TABLE ingest_record; --",
        "\u200b\u200d",
        "\ufeff",
        "\udc80",
    ],
    *[
        "e\u0301",
        "a" + "\u0301" * 300,
        "\u202eabc",
        "مرحبا",
        "\U0001f469\u200d\U0001f467",
        "１２３",
    ],
    *["x" * 400, "a " * 200, "ab " * 133, "\u0130" * 200, "\ufdfa" * 100, "\U0001d518" * 60],
    # As many different words, phrases and exclusions as 400 characters hold.
    "".join(chr(0x4E00 + number) for number in range(400)),
    " ".join(f'"{chr(0x4E00 + number)}"' for number in range(100)),
    " ".join(f"-{chr(0x4E00 + number)}" for number in range(133)),
    '"' + "a " * 199 + '"',
]

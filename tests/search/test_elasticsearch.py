"""What a server may answer that a healthy one cannot be made to: scripted over real HTTP.

The contract and real troubles are in tests/live/test_search_elasticsearch*.py.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db.models.signals import post_save
from django.utils import timezone
from django_elasticsearch_dsl.registries import registry
from elasticsearch import Elasticsearch

from ingest.models import ErrorLog, Outbox, Record
from portal.config import BASE_DIR
from search import indexer
from search.distance import is_within_prefix
from search.documents import (
    Document,
    ErrorDocument,
    RecordDocument,
    list_fields,
    read_documents,
    read_mapping,
)
from search.engines import elasticsearch_bulk
from search.engines.base import Deadline, IndexMissing
from search.engines.elasticsearch import ElasticsearchEngine, name_layout
from search.engines.elasticsearch_bulk import (
    BUSY_WAITS_SECONDS,
    MAX_REQUEST_ITEMS,
    SENDERS,
    write_batch,
)
from search.engines.elasticsearch_plan import spell_one_edit
from search.errors import SearchPartial, SearchTimeout, SearchUnavailable
from search.plan import MAX_PREFIX_TYPO_CHARS
from search.query import Kind
from search.services import find_hits
from tests.search.contract import STAFF, ask, make_document

ALIAS = "test-current"
INDEX = f"test-{name_layout()}-1"
FACTS = {INDEX: {"aliases": {ALIAS: {}}, "mappings": read_mapping(), "settings": {}}}
SHARDS = {"total": 3, "successful": 3, "skipped": 0, "failed": 0}


@dataclass
class Script:
    """A server that answers what a test tells it to, by the beginning of "METHOD /path"."""

    url: str
    answers: dict[str, Callable[[bytes], tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    product: str = "Elasticsearch"

    def say(self, request: str, body: Any, status: int = 200) -> None:
        self.answers[request] = lambda _: (status, body)


@pytest.fixture
def script() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = f"{self.command} {self.path}"
            played.asked.append((request, sent))
            found = [name for name in played.answers if request.startswith(name)]
            status, body = played.answers[max(found, key=len)](sent) if found else (404, {})
            content = json.dumps(body).encode()
            self.send_response(status)
            if played.product:
                self.send_header("X-Elastic-Product", played.product)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        played = Script(f"http://127.0.0.1:{server.server_port}")
        played.say(f"GET /{ALIAS}", FACTS)
        played.say(f"POST /{ALIAS}/_refresh", {"_shards": SHARDS})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield played
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(script: Script) -> Iterator[ElasticsearchEngine]:
    made = ElasticsearchEngine(
        {"hosts": [script.url]}, prefix="test", index_settings={}, open_seconds=5
    )
    yield made
    made._client.close()


@pytest.fixture
def client(script: Script) -> Iterator[Elasticsearch]:
    with Elasticsearch(script.url) as made:
        yield made


# --- bulk -------------------------------------------------------------------------------------

BUSY = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
FLOOD = {
    "type": "cluster_block_exception",
    "reason": "index [x] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage "
    "watermark, index has read-only-allow-delete block];",
}


def play_bulk(script: Script, judge: Callable[[str], dict[str, Any] | None]) -> list[list[str]]:
    """Answers bulk requests item by item; gives the ids of each request, as they come."""
    requests: list[list[str]] = []

    def answer(sent: bytes) -> tuple[int, Any]:
        actions = [json.loads(line) for line in sent.splitlines()]
        ids = [next(iter(a.values()))["_id"] for a in actions if a.keys() & {"index", "delete"}]
        requests.append(ids)
        items = [{"index": judge(name) or {"status": 200}} for name in ids]
        return 200, {"errors": any("error" in i["index"] for i in items), "items": items}

    script.answers[f"PUT /{ALIAS}/_bulk"] = answer
    return requests


def test_only_what_a_busy_server_turned_down_is_sent_again(
    script: Script, client: Elasticsearch
) -> None:
    refusals = {"record-2": 2, "record-3": 1}

    def judge(name: str) -> dict[str, Any] | None:
        refusals[name] = refusals.get(name, 0) - 1
        return {"status": 429, "error": BUSY} if refusals[name] >= 0 else None

    requests = play_bulk(script, judge)
    waits: list[float] = []
    rejected = write_batch(
        client,
        ALIAS,
        upserts=[make_document(pk=pk) for pk in (1, 2, 3)],
        deletes=["record-4"],
        sleep=waits.append,
    )
    assert rejected == {}
    assert requests == [
        ["record-1", "record-2", "record-3", "record-4"],
        ["record-2", "record-3"],
        ["record-2"],
    ]
    assert tuple(waits) == BUSY_WAITS_SECONDS[:2]


def test_an_item_whose_shard_is_away_for_a_moment_is_sent_again_alone(
    script: Script, client: Elasticsearch
) -> None:
    away = [{"status": 503, "error": {"type": "unavailable_shards_exception", "reason": "so"}}]
    requests = play_bulk(script, lambda n: away.pop() if n == "record-2" and away else None)
    documents = [make_document(pk=pk) for pk in (1, 2)]
    assert not write_batch(client, ALIAS, upserts=documents, deletes=[], sleep=lambda _: None)
    assert requests == [["record-1", "record-2"], ["record-2"]]


def test_what_is_too_much_for_one_request_is_halved_until_one_document_is_to_blame(
    script: Script, client: Elasticsearch
) -> None:
    requests = play_bulk(script, lambda _: None)
    answer = script.answers[f"PUT /{ALIAS}/_bulk"]

    def refuse(sent: bytes) -> tuple[int, Any]:
        return (413, "too large") if b'"record-3"' in sent else answer(sent)

    script.answers[f"PUT /{ALIAS}/_bulk"] = refuse
    documents = [make_document(pk=pk) for pk in (1, 2, 3, 4)]
    rejected = write_batch(client, ALIAS, upserts=documents, deletes=[])
    assert rejected.keys() == {"record-3"}
    assert "request_too_large" in rejected["record-3"]
    assert requests == [["record-1", "record-2"], ["record-4"]]


def test_documents_are_built_while_others_are_on_their_way(
    script: Script, client: Elasticsearch
) -> None:
    """What is in memory does not grow with the batch."""
    requests = play_bulk(script, lambda _: None)
    leads: list[int] = []

    def build() -> Iterator[Document]:
        for pk in range(20 * MAX_REQUEST_ITEMS):
            leads.append(pk - sum(map(len, requests)))
            yield make_document(pk=pk)

    write_batch(client, ALIAS, upserts=build(), deletes=[])
    assert max(leads) <= (SENDERS + 2) * MAX_REQUEST_ITEMS


def test_of_a_document_that_is_given_twice_the_last_one_counts(
    script: Script, client: Elasticsearch
) -> None:
    requests = play_bulk(script, lambda _: None)
    write_batch(
        client, ALIAS, upserts=[make_document(pk=1), make_document(pk=1)], deletes=["record-1"]
    )
    assert requests == [["record-1"], ["record-1"], ["record-1"]]


def test_a_server_that_stays_busy_gets_the_batch_later(
    script: Script, client: Elasticsearch
) -> None:
    requests = play_bulk(script, lambda _: {"status": 429, "error": BUSY})
    with pytest.raises(SearchUnavailable) as raised:
        write_batch(client, ALIAS, upserts=[make_document()], deletes=[], sleep=lambda _: None)
    assert raised.value.reason == "Its server is overloaded."
    assert len(requests) == 1 + len(BUSY_WAITS_SECONDS)


def test_a_flooded_disk_is_not_asked_again_and_parks_nothing(
    script: Script, client: Elasticsearch
) -> None:
    requests = play_bulk(script, lambda _: {"status": 429, "error": FLOOD})
    with pytest.raises(SearchUnavailable) as raised:
        write_batch(client, ALIAS, upserts=[make_document()], deletes=[])
    assert "disk is full" in raised.value.reason
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (404, "index_not_found_exception", IndexMissing),
        (503, "unavailable_shards_exception", SearchUnavailable),
        (403, "security_exception", SearchUnavailable),
        (400, "strict_dynamic_mapping_exception", SearchUnavailable),
        (500, "some_bug_exception", SearchUnavailable),
    ],
)
def test_what_is_not_the_documents_fault_parks_no_document(
    script: Script,
    engine: ElasticsearchEngine,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: str,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(elasticsearch_bulk, "BUSY_WAITS_SECONDS", (0.0,))
    play_bulk(script, lambda _: {"status": status, "error": {"type": kind, "reason": "so"}})
    with pytest.raises(error):
        engine.apply(upserts=[make_document()], deletes=[])


@pytest.mark.django_db
def test_a_machine_without_a_thread_left_parks_no_document(
    script: Script,
    engine: ElasticsearchEngine,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store("row")

    def fail(self: ThreadPoolExecutor) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(indexer, "get_engine", lambda: engine)
    monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", fail)
    with pytest.raises(SearchUnavailable):
        indexer.drain_batch()
    assert not Outbox.objects.filter(parked_at__isnull=False).exists()


def test_a_document_that_is_refused_for_good_is_named_beside_those_that_are_not(
    script: Script, engine: ElasticsearchEngine
) -> None:
    bad = {"type": "document_parsing_exception", "reason": "too deep"}
    play_bulk(script, lambda n: {"status": 400, "error": bad} if n == "record-2" else None)
    applied = engine.apply(upserts=[make_document(pk=pk) for pk in (1, 2, 3)], deletes=[])
    assert applied.rejected == {"record-2": "document_parsing_exception: too deep"}


def test_documents_that_a_changed_mapping_refuses_are_not_parked(
    script: Script, engine: ElasticsearchEngine
) -> None:
    engine.open()  # the mapping is ours, still
    changed = json.loads(json.dumps(FACTS))
    changed[INDEX]["mappings"]["properties"]["title"]["type"] = "long"
    script.say(f"GET /{ALIAS}", changed)
    bad = {"type": "document_parsing_exception", "reason": "not a number"}
    play_bulk(script, lambda _: {"status": 400, "error": bad})
    with pytest.raises(SearchUnavailable, match="changed by hand"):
        engine.apply(upserts=[make_document()], deletes=[])


def test_a_large_batch_goes_out_in_several_requests_and_each_document_once(
    script: Script, client: Elasticsearch
) -> None:
    requests = play_bulk(script, lambda _: None)
    size = 2 * MAX_REQUEST_ITEMS + 1
    write_batch(client, ALIAS, upserts=[make_document(pk=p) for p in range(size)], deletes=[])
    assert sorted(map(len, requests)) == [1, MAX_REQUEST_ITEMS, MAX_REQUEST_ITEMS]
    assert len({name for request in requests for name in request}) == size


# --- searching --------------------------------------------------------------------------------


def play_search(script: Script, answer: Any) -> None:
    hits = {"total": {"value": 0, "relation": "eq"}, "hits": []}
    whole = {"timed_out": False, "_shards": SHARDS, "hits": hits, "status": 200}
    script.say("POST /_msearch", {"took": 1, "responses": [whole | answer]})


def search(engine: ElasticsearchEngine) -> None:
    find_hits(engine.open(), ask("x"), STAFF, Deadline(5), is_counted=False)


def test_a_failed_shard_is_never_a_shorter_list(
    script: Script, engine: ElasticsearchEngine
) -> None:
    play_search(script, {"_shards": {**SHARDS, "successful": 2, "failed": 1}})
    with pytest.raises(SearchPartial):
        search(engine)


def test_a_search_that_the_server_stopped_is_a_timeout(
    script: Script, engine: ElasticsearchEngine
) -> None:
    play_search(script, {"timed_out": True})
    with pytest.raises(SearchTimeout):
        search(engine)


def test_every_search_asks_for_all_shards_and_names_what_is_left_of_the_budget(
    script: Script, engine: ElasticsearchEngine
) -> None:
    play_search(script, {})
    search(engine)
    [sent] = [body for request, body in script.asked if request.startswith("POST /_msearch")]
    header, asked = map(json.loads, sent.splitlines())
    assert header == {"index": ALIAS, "allow_partial_search_results": False}
    (left,) = re.fullmatch(r"(\d+)ms", asked["timeout"]).groups()  # type: ignore[union-attr]
    assert 0 < int(left) <= 5_000


def test_whether_a_hit_meets_all_words_takes_no_request_of_its_own(
    script: Script, engine: ElasticsearchEngine
) -> None:
    answers = [
        {
            "timed_out": False,
            "_shards": SHARDS,
            "hits": {"total": {"value": total, "relation": "eq"}, "hits": []},
            "aggregations": {"whole": {"doc_count": whole}},
            "status": 200,
        }
        for total, whole in [(20, 0), (21, 1)]
    ]
    script.say("POST /_msearch", {"took": 1, "responses": answers})
    plan, found = find_hits(engine.open(), ask("three or more"), STAFF, Deadline(5))
    assert (plan.stage, found.total) == (1, 21)
    assert len([1 for request, _ in script.asked if request.startswith("POST /_msearch")]) == 1


@pytest.mark.parametrize(
    ("kind", "status", "raised"),
    [
        ("index_not_found_exception", 404, IndexMissing),
        ("search_phase_execution_exception", 503, SearchPartial),
        ("task_cancelled_exception", 400, SearchTimeout),
        ("es_rejected_execution_exception", 429, SearchUnavailable),
    ],
)
def test_trouble_of_one_search_among_several_is_named(
    script: Script,
    engine: ElasticsearchEngine,
    kind: str,
    status: int,
    raised: type[SearchUnavailable],
) -> None:
    play_search(script, {"error": {"type": kind, "reason": "so"}, "status": status})
    with pytest.raises(raised) as caught:
        search(engine)
    assert type(caught.value) is raised


# As servers of line 8 and 9 say it to a client of the next line (seen on 8.19.0 and 9.2.0).
OTHER_MAJOR = {
    "type": "media_type_header_exception",
    "reason": "Invalid media-type value on headers [Accept, Content-Type]",
}
WRONG_VERSION = "Its server is no Elasticsearch of version 9."


@pytest.mark.parametrize(
    ("status", "error", "product", "reason"),
    [
        (400, OTHER_MAJOR, "Elasticsearch", WRONG_VERSION),
        (200, {}, "", WRONG_VERSION),
        (404, {}, "", WRONG_VERSION),
        (502, {}, "", "Its server does not answer."),
        (401, {}, "", "Its server refuses the portal's user, password or key."),
        (403, {"type": "security_exception"}, "Elasticsearch", "Its server refuses"),
        (429, {"type": "circuit_breaking_exception"}, "Elasticsearch", "Its server is overloaded."),
    ],
)
def test_the_reason_is_told_in_words_for_anybody(
    script: Script,
    engine: ElasticsearchEngine,
    status: int,
    error: dict[str, Any],
    product: str,
    reason: str,
) -> None:
    script.product = product
    script.say(f"GET /{ALIAS}", {"error": error, "status": status}, status)
    found = engine.check()
    assert (found.ok, found.is_missing) == (False, False)
    assert found.reason.startswith(reason)
    with pytest.raises(SearchUnavailable) as raised:
        engine.open()
    assert raised.value.message.startswith(f"Search is not reachable at the moment. {reason}")


def test_an_alias_with_two_indexes_is_not_answered_from(
    script: Script, engine: ElasticsearchEngine
) -> None:
    script.say(f"GET /{ALIAS}", FACTS | {f"{ALIAS}-2": FACTS[INDEX]})
    with pytest.raises(SearchUnavailable, match="changed by hand"):
        engine.open()


# --- the budget of one search -----------------------------------------------------------------


def play_slow_bounds(script: Script) -> None:
    def answer(_: bytes) -> tuple[int, Any]:
        time.sleep(1.5)
        bounds = {name: {"value": None} for name in ("min", "max")}
        return 200, {"timed_out": False, "_shards": SHARDS, "aggregations": bounds}

    script.answers[f"POST /{ALIAS}/_search"] = answer


def test_the_bounds_of_time_are_asked_for_within_what_is_left_of_the_budget(
    script: Script, engine: ElasticsearchEngine
) -> None:
    play_slow_bounds(script)
    view = engine.open()
    with pytest.raises(SearchTimeout):
        find_hits(view, ask("x"), STAFF, Deadline(1.0), is_counted=True)
    (sent,) = [body for request, body in script.asked if "_search" in request]
    (left,) = re.fullmatch(r"(\d+)ms", json.loads(sent)["timeout"]).groups()  # type: ignore[union-attr]
    assert int(left) <= 1_000


@pytest.mark.parametrize("ask_engine", [ElasticsearchEngine.open, ElasticsearchEngine.ping])
def test_the_look_at_the_alias_is_within_what_is_left_of_the_budget(
    script: Script, engine: ElasticsearchEngine, ask_engine: Callable[..., Any]
) -> None:
    def answer(_: bytes) -> tuple[int, Any]:
        time.sleep(0.6)
        return 200, FACTS

    script.answers[f"GET /{ALIAS}"] = answer
    with pytest.raises(SearchTimeout):
        ask_engine(engine, deadline=Deadline(0.1))
    with pytest.raises(SearchTimeout):
        ask_engine(engine, deadline=Deadline(-1))


# --- rebuilds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "is_removed"),
    [("moved", False), ("as before", True), ("out of reach", False)],
)
def test_an_index_that_may_answer_is_not_removed(
    script: Script, engine: ElasticsearchEngine, alias: str, is_removed: bool
) -> None:
    """The answer to the request that moves the alias is lost."""
    fresh: list[str] = []

    def play_create(sent: bytes) -> tuple[int, Any]:
        fresh.append(script.asked[-1][0].split("/")[1].split("?")[0])
        script.say(f"GET /{fresh[0]}", {fresh[0]: FACTS[INDEX]})
        script.say(f"POST /{fresh[0]}/_refresh", {"_shards": SHARDS})
        script.say(f"PUT /{fresh[0]}/_settings", {"acknowledged": True})
        script.say(f"DELETE /{fresh[0]}", {"acknowledged": True})
        return 200, {"acknowledged": True, "shards_acknowledged": True, "index": fresh[0]}

    def play_move(sent: bytes) -> tuple[int, Any]:
        if alias == "moved":
            script.say(f"GET /{ALIAS}", {fresh[0]: FACTS[INDEX]})
        if alias == "out of reach":
            script.say(f"GET /{ALIAS}", {"error": "down", "status": 503}, 503)
        return 503, {"error": {"type": "process_cluster_event_timeout_exception"}, "status": 503}

    script.answers["PUT /test-v"] = play_create
    script.answers["POST /_aliases"] = play_move
    script.say("GET /test-v*", {})
    with pytest.raises(SearchUnavailable), engine.start_rebuild() as rebuild:
        rebuild.publish()
    assert any(request.startswith("DELETE") for request, _ in script.asked) == is_removed


def test_what_a_killed_rebuild_left_behind_is_removed_and_nothing_else(
    script: Script, engine: ElasticsearchEngine
) -> None:
    """It may have been killed while it filled its index, or before it removed the old one."""
    filling, replaced, kept = (f"test-{name_layout()}-{n}" for n in (2, 3, 4))
    aliases: dict[str, dict[str, Any]] = {
        INDEX: {ALIAS: {}},
        filling: {f"{filling}-filling": {}},
        replaced: {},
        kept: {"somebody-elses": {}},
        "test-v-by-hand": {},
    }
    script.say("GET /test-v*", {index: {"aliases": found} for index, found in aliases.items()})
    script.say("DELETE /test-v", {"acknowledged": True})
    engine.remove_unfinished()
    removed = [request.split("?")[0] for request, _ in script.asked if request[:6] == "DELETE"]
    assert removed == [f"DELETE /{filling}", f"DELETE /{replaced}"]


@pytest.mark.django_db
def test_a_server_that_makes_indexes_too_late_is_not_filled_with_them(
    script: Script, engine: ElasticsearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    def name_index() -> str:
        return script.asked[-1][0].split("/")[1].split("?")[0]

    def play_create(sent: bytes) -> tuple[int, Any]:
        made[name_index()] = {"aliases": json.loads(sent)["aliases"]}
        return 503, {"error": {"type": "process_cluster_event_timeout_exception"}, "status": 503}

    def play_delete(sent: bytes) -> tuple[int, Any]:
        del made[name_index()]
        return 200, {"acknowledged": True}

    gone = {"error": {"type": "index_not_found_exception"}, "status": 404}
    script.say(f"GET /{ALIAS}", gone, 404)
    script.answers["GET /test-v*"] = lambda _: (200, made)
    script.answers["PUT /test-v"] = play_create
    script.answers["DELETE /test-v"] = play_delete
    monkeypatch.setattr(indexer, "get_engine", lambda: engine)
    for _ in range(3):
        with pytest.raises(SearchUnavailable):
            indexer.ensure_index()
    assert len(made) == 1


# --- typos in prefixes ------------------------------------------------------------------------


def test_the_pattern_of_a_word_with_one_edit_means_what_is_marked() -> None:
    rng = random.Random(5)
    found = set()
    for _ in range(3_000):
        typed = "".join(rng.choices("ab", k=rng.randint(1, MAX_PREFIX_TYPO_CHARS)))
        word = "".join(rng.choices("ab", k=rng.randint(0, len(typed) + 2)))
        near = typed[: (at := rng.randrange(len(typed)))] + word[:1] + typed[at + 1 :] + word[:2]
        for begun in (word, near, near[1:], near[1::-1] + near[2:]):
            is_near = bool(re.fullmatch(f"{spell_one_edit(typed)}.*", begun))
            assert is_near == is_within_prefix(typed, begun, 1), (typed, begun)
            found.add(is_near)
    assert found == {False, True}


def test_the_longest_pattern_is_one_that_the_server_takes() -> None:
    word = "".join(map(chr, range(0x10428, 0x10428 + MAX_PREFIX_TYPO_CHARS)))
    # Java counts these letters twice; the server's limit is index.max_regex_length.
    assert len(spell_one_edit(word).encode("utf-16-le")) // 2 < 500


# --- the Documents of django-elasticsearch-dsl ------------------------------------------------


@pytest.mark.django_db
def test_the_documents_prepare_rows_as_the_drainer_does(store: Any, source: Any) -> None:
    record = store("İstanbul Boğazı", body="körfez", weight=15e6, status_code=200)
    [document] = read_documents(Kind.RECORD, [record.pk])
    prepared, fields = RecordDocument().prepare(record), list_fields(document)
    assert json.loads(prepared.pop("shown")) == json.loads(fields.pop("shown"))
    assert prepared == fields
    assert prepared["title"] == "istanbul bogazi"
    assert {"ist", "istanbul", "bogazi"} <= set(prepared["title_prefixes"].split())
    assert prepared.keys() <= read_mapping()["properties"].keys()
    assert RecordDocument.generate_id(record) == document.id

    now = timezone.now()
    error = ErrorLog.objects.create(error_type="Timeout", source=source, occurred_at=now)
    [document] = read_documents(Kind.ERROR, [error.pk])
    assert ErrorDocument().prepare(error) == list_fields(document)
    assert ErrorDocument.generate_id(error) == document.id


def test_both_documents_share_one_mapping_and_index() -> None:
    assert registry.get_models() == {Record, ErrorLog}
    [index] = registry.get_indices()
    assert index.to_dict()["mappings"] == read_mapping()
    assert index.to_dict()["settings"]["number_of_replicas"] == 0


@pytest.mark.django_db
def test_saving_a_row_asks_no_server(store: Any, script: Script, settings: Any) -> None:
    settings.ELASTICSEARCH_URL = script.url
    store("quiet").delete()
    assert script.asked == []
    receivers = [str(ref) for _, ref, *_ in post_save.receivers]
    assert not [name for name in receivers if "elasticsearch" in name.lower()]


def test_the_command_of_the_library_that_would_delete_the_index_refuses() -> None:
    with pytest.raises(CommandError, match="rebuild_index"):
        call_command("search_index")
    done = subprocess.run(
        [sys.executable, "manage.py", "search_index", "--rebuild", "-f"],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "rebuild_index" in done.stderr


def test_without_an_address_the_library_has_no_connection() -> None:
    assert django_settings.ELASTICSEARCH_URL == ""
    assert django_settings.ELASTICSEARCH_DSL == {}

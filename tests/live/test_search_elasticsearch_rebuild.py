"""Rebuilding in a real Elasticsearch while rows change, and its death in the middle of writing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from ingest.models import Job, Outbox, Record, Source
from search import documents, indexer, rebuild, services, tasks
from search.engines import elasticsearch, elasticsearch_bulk
from search.engines.base import Engine
from search.engines.elasticsearch import ElasticsearchRebuild
from search.rebuild import RebuildRefused, rebuild_index
from tests.live.elasticsearch_node import (
    Node,
    call_node,
    check_started,
    node,
    portal_on_elasticsearch,
    run_node,
)
from tests.live.stack import find_port, wait_for
from tests.search.conftest import owner, source, staff, store
from tests.search.storm import Storm, find_differences, make_record, rebuild_amid_storm

pytestmark = [pytest.mark.live, pytest.mark.django_db]

__all__ = ["node", "owner", "portal_on_elasticsearch", "source", "staff", "store"]

Use = Callable[..., Engine]
Store = Callable[..., Record]


def list_indexes(node: Node, engine: Any) -> list[str]:
    return sorted(node.client.indices.get(index=f"{engine._prefix}-*", features="aliases"))


@pytest.mark.django_db(transaction=True)
def test_a_rebuild_amid_hundreds_of_writes_and_deletes_a_second_loses_none(
    portal_on_elasticsearch: Use, source: Source
) -> None:
    engine = portal_on_elasticsearch()
    Record.objects.bulk_create(make_record(source, number) for number in range(5_000))
    indexer.drain_everything()
    report, after_the_switch = rebuild_amid_storm(source, rounds=3)
    assert report.compared > 1_000
    assert after_the_switch > 5
    indexer.drain_everything()
    assert not find_differences(engine)


def test_a_single_difference_stops_the_switch(
    node: Node, portal_on_elasticsearch: Use, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = portal_on_elasticsearch()
    for number in range(20):
        store(f"row {number}")
    indexer.drain_everything()
    before = list_indexes(node, engine)
    apply = ElasticsearchRebuild.apply

    def lose_one(self: Any, *, upserts: Any, deletes: Any = ()) -> Any:
        kept = [document for document in upserts if document.title != "row 13"]
        return apply(self, upserts=kept, deletes=deletes)

    monkeypatch.setattr(ElasticsearchRebuild, "apply", lose_one)
    with pytest.raises(RebuildRefused, match="1 of 20"):
        rebuild_index()
    assert list_indexes(node, engine) == before


def test_an_index_of_an_earlier_version_goes_on_until_the_rebuild(
    node: Node,
    portal_on_elasticsearch: Use,
    store: Store,
    staff: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = portal_on_elasticsearch()
    store("old")
    indexer.drain_everything()
    before = list_indexes(node, engine)

    # The next version has another field, and its documents too.
    monkeypatch.setattr(elasticsearch, "DOCUMENT_VERSION", documents.DOCUMENT_VERSION + 1)
    fields = {**elasticsearch.MAPPING["properties"], "place": {"type": "keyword"}}
    monkeypatch.setattr(elasticsearch, "MAPPING", elasticsearch.MAPPING | {"properties": fields})
    list_fields = documents.list_fields
    monkeypatch.setattr(
        elasticsearch_bulk, "list_fields", lambda each: list_fields(each) | {"place": "here"}
    )
    engine = portal_on_elasticsearch()
    store("new")
    assert indexer.drain_everything() == 1
    assert not find_differences(engine)
    status = services.engine_status()
    assert status["ok"]
    assert "rebuild_index" in status["hint"]
    assert list_indexes(node, engine) == before

    rebuild_index()
    assert services.engine_status()["hint"] == ""
    assert len(list_indexes(node, engine)) == 1
    assert list_indexes(node, engine) != before
    assert not find_differences(engine)


def test_an_older_version_leaves_the_index_of_a_newer_one_alone(
    portal_on_elasticsearch: Use, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(elasticsearch, "DOCUMENT_VERSION", documents.DOCUMENT_VERSION + 1)
        portal_on_elasticsearch()
        indexer.drain_everything()
    engine = portal_on_elasticsearch()
    store("by the older one")
    assert not tasks.drain_slice(seconds=0.2)
    assert Outbox.objects.count() == 1
    assert engine.check().is_outdated


def test_what_a_killed_rebuild_left_behind_is_removed(
    node: Node, portal_on_elasticsearch: Use, store: Store
) -> None:
    engine = portal_on_elasticsearch()
    store("row")
    indexer.drain_everything()
    before = list_indexes(node, engine)
    Job.objects.create(kind="rebuild", state="running")
    left_behind = engine.start_rebuild()
    left_behind.__enter__()
    assert list_indexes(node, engine) != before
    rebuild.find_waiting_jobs()
    assert list_indexes(node, engine) == before
    assert Job.objects.get().state == "failed"


# --- its death --------------------------------------------------------------------------------


@pytest.fixture
def drainer() -> Iterator[None]:
    """Drains in a thread of its own, as a worker does."""
    is_over = threading.Event()

    def drain() -> None:
        try:
            while not is_over.is_set():
                tasks.drain_slice(seconds=1.0)
        finally:
            connections.close_all()

    thread = threading.Thread(target=drain)
    thread.start()
    yield
    is_over.set()
    thread.join()


@pytest.mark.django_db(transaction=True)
def test_a_server_that_is_killed_amid_writes_gets_everything_when_it_is_back(
    portal_on_elasticsearch: Use, source: Source, request: pytest.FixtureRequest, client: Any
) -> None:
    # A port that the system gives to no client while the server is dead.
    with run_node(port=find_port()) as mortal:
        engine = portal_on_elasticsearch(mortal.url)
        Record.objects.bulk_create(make_record(source, number) for number in range(1_000))
        indexer.drain_everything()
        request.getfixturevalue("drainer")
        with Storm(source) as storm:
            storm.wait_for_rounds(10)
            os.kill(mortal.pid, signal.SIGKILL)
            storm.wait_for_rounds(40)
            waiting = Outbox.objects.count()
            assert waiting > 100
            client.force_login(source.owner)
            answer = client.get("/api/search/", {"q": "row"})
            assert answer.status_code == 503
            assert int(answer["Retry-After"]) > 0
            assert client.get("/api/sources/").status_code == 200
            port = mortal.url.rpartition(":")[2]
            started = call_node(
                "start", "--port", port, "--data-dir", mortal.folder, "--heap", "256m"
            )
            check_started(started)
            storm.wait_for_rounds(storm.rounds + 5)
        wait_for("an empty outbox", lambda: not Outbox.objects.exists(), timeout_seconds=120)
        assert not find_differences(engine)

"""What is wrong with Elasticsearch is said where people look; ingest and backlog survive it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from ingest.models import Outbox, Record
from portal.config import BASE_DIR
from search import indexer, tasks
from search.engines.base import Engine, IndexMissing
from search.errors import SearchUnavailable
from tests.live.elasticsearch_node import Node, node, portal_on_elasticsearch, run_node
from tests.live.stack import make_environment
from tests.search.conftest import owner, source, staff, store

pytestmark = [pytest.mark.live, pytest.mark.django_db]

__all__ = ["node", "owner", "portal_on_elasticsearch", "source", "staff", "store"]

Use = Callable[..., Engine]
Store = Callable[..., Record]


@pytest.fixture
def browser(staff: Any) -> Client:
    client = Client()
    client.force_login(staff)
    return client


@pytest.fixture
def filled(portal_on_elasticsearch: Use, store: Store) -> Engine:
    """The portal as it is on a good day, with one record in the index."""
    store("İstanbul")
    indexer.drain_everything()
    return portal_on_elasticsearch()


def find_problem(browser: Client) -> str:
    """What the health page, the search page and the API say is wrong; they must agree."""
    health = browser.get("/health/ready")
    check = health.json()["checks"]["search"]
    assert (health.status_code, check["ok"]) == (503, False)
    assert int(health["Retry-After"]) > 0
    engine, _, reason = str(check["detail"]).partition(": ")
    assert engine == "elasticsearch"
    page = browser.get("/search/", {"q": "istnbul"})
    api = browser.get("/api/search/", {"q": "istnbul"})
    for response in (page, api):
        assert response.status_code == 503
        assert int(response["Retry-After"]) > 0
    assert reason in page.context["problem"]["title"]
    error = api.json()["error"]
    assert error["code"] in ("search_unavailable", "search_partial")
    assert reason in error["message"]
    return reason


def find_titles(browser: Client, q: str) -> list[str]:
    answer = browser.get("/api/search/", {"q": q, "kind": "record"})
    assert answer.status_code == 200, answer.content
    return [hit["title"] for hit in answer.json()["results"]]


def check_that_ingest_goes_on(store: Store) -> None:
    """A row is stored and waits; the drainer tries, and takes a break."""
    store("Ankara")
    waiting = Outbox.objects.count()
    assert tasks._drain_once() == tasks.ENGINE_DOWN_SECONDS
    assert Outbox.objects.filter(parked_at__isnull=True).count() == waiting > 0


def check_that_the_backlog_drains(browser: Client) -> None:
    for _ in range(3):
        tasks._drain_once()
    assert Outbox.objects.count() == 0
    assert find_titles(browser, "istnbul") == ["İstanbul"]
    assert find_titles(browser, "ankra") == ["Ankara"]
    assert browser.get("/health/ready").json()["checks"]["search"]["ok"]


@contextlib.contextmanager
def hold_silent_port() -> Iterator[str]:
    """An address at which nobody listens, and nobody can as long as it is held."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


# --- absent -----------------------------------------------------------------------------------


def test_without_a_server_the_portal_starts(tmp_path: Any) -> None:
    script = "import portal.asgi, portal.celery; print('up')"
    with hold_silent_port() as url:
        environment = make_environment(tmp_path, 8000, ELASTICSEARCH_URL=url)
        for command in (["manage.py", "check"], ["-c", script]):
            started = subprocess.run(
                [sys.executable, *command],
                cwd=BASE_DIR,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert started.returncode == 0, started.stderr


def test_a_server_that_comes_late_gets_the_backlog(
    portal_on_elasticsearch: Use, store: Store, browser: Client
) -> None:
    with hold_silent_port() as url:
        portal_on_elasticsearch(url)
        # Even before there is anything to find: an unreachable server is not an empty one.
        assert find_problem(browser) == "Its server does not answer."
        store("İstanbul")
        assert find_problem(browser) == "Its server does not answer."
        check_that_ingest_goes_on(store)
    portal_on_elasticsearch()
    check_that_the_backlog_drains(browser)


def test_a_wrong_password_is_told_without_telling_it(
    portal_on_elasticsearch: Use, store: Store, browser: Client
) -> None:
    store("İstanbul")
    with run_node(password="correct-horse") as guarded:
        place = guarded.url.removeprefix("http://")
        portal_on_elasticsearch(f"http://elastic:hunter2@{place}")
        assert find_problem(browser) == "Its server refuses the portal's user, password or key."
        for path in ("/health/ready", "/search/?q=x", "/api/search/?q=x"):
            assert b"hunter2" not in browser.get(path).content
        check_that_ingest_goes_on(store)
        portal_on_elasticsearch(f"http://elastic:correct-horse@{place}")
        check_that_the_backlog_drains(browser)


# --- ill --------------------------------------------------------------------------------------


def find_index(node: Node, engine: Any) -> str:
    (name,) = node.client.indices.get(index=engine._alias, features="aliases")
    return str(name)


def test_an_index_whose_disk_is_lost_is_red_and_can_be_rebuilt(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    index = find_index(node, filled)
    facts = node.client.indices.get(index=index, flat_settings=True)[index]
    shard = node.folder / "data" / "indices" / facts["settings"]["index.uuid"] / "0"
    node.client.indices.close(index=index)
    shutil.rmtree(shard)
    node.client.indices.open(index=index, wait_for_active_shards=0)
    assert node.client.cluster.health(index=index)["status"] == "red"

    assert find_problem(browser) == "Shards of its index are out of reach."
    error = browser.get("/api/search/", {"q": "istnbul"}).json()["error"]
    assert error["code"] == "search_partial"
    check_that_ingest_goes_on(store)

    call_command("rebuild_index", verbosity=0)
    check_that_the_backlog_drains(browser)


def test_a_full_disk_stops_writing_but_not_searching(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    # What Elasticsearch itself sets at the flood-stage watermark.
    block = "index.blocks.read_only_allow_delete"
    node.client.indices.put_settings(index=filled._alias, settings={block: True})  # type: ignore[attr-defined]

    health = browser.get("/health/ready")
    detail = health.json()["checks"]["search"]["detail"]
    assert health.status_code == 503
    assert detail == ("elasticsearch: Its index is read-only, probably because a disk is full.")
    check_that_ingest_goes_on(store)
    assert find_titles(browser, "istnbul") == ["İstanbul"]
    answer = browser.get("/api/search/", {"q": "istnbul"}).json()
    assert answer["coverage"]["pending"] == Outbox.objects.count() > 0

    node.client.indices.put_settings(index=filled._alias, settings={block: None})  # type: ignore[attr-defined]
    check_that_the_backlog_drains(browser)


# --- somebody's hand --------------------------------------------------------------------------


def test_an_index_that_is_deleted_by_hand_is_filled_again(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    store("Ankara")
    node.client.indices.delete(index=find_index(node, filled))

    assert find_problem(browser) == "Its index is gone and will be filled anew."
    check_that_the_backlog_drains(browser)


def test_writing_to_a_deleted_index_does_not_bring_it_back_guessed(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    store("Ankara")
    node.client.indices.delete(index=find_index(node, filled))
    # The engine has looked at the index a moment ago and trusts it still.
    with pytest.raises(IndexMissing):
        indexer.drain_batch()
    assert not node.client.indices.exists(index=filled._alias)  # type: ignore[attr-defined]
    check_that_the_backlog_drains(browser)


BY_HAND = "Its index was changed by hand: run “manage.py rebuild_index”."


def forget(filled: Engine) -> None:
    filled._trusted_until = 0.0  # type: ignore[attr-defined]


def test_a_mapping_that_is_changed_by_hand_is_not_answered_from(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    changed = {"type": "text", "analyzer": "whitespace", "search_analyzer": "keyword"}
    node.client.indices.put_mapping(
        index=filled._alias,  # type: ignore[attr-defined]
        properties={"title": changed | {"similarity": "boolean", "norms": False}},
    )

    forget(filled)
    assert find_problem(browser) == BY_HAND
    check_that_ingest_goes_on(store)
    # Not done without being asked: a template of the cluster would make it an endless loop.
    call_command("rebuild_index", verbosity=0)
    check_that_the_backlog_drains(browser)


def test_an_index_with_a_guessed_mapping_in_place_of_the_alias_is_replaced_on_demand(
    node: Node, filled: Engine, store: Store, browser: Client
) -> None:
    node.client.indices.delete(index=find_index(node, filled))
    node.client.index(index=filled._alias, document={"title": "İstanbul"}, refresh=True)  # type: ignore[attr-defined]

    forget(filled)
    assert find_problem(browser) == BY_HAND
    check_that_ingest_goes_on(store)
    call_command("rebuild_index", verbosity=0)
    check_that_the_backlog_drains(browser)


def test_a_field_that_somebody_adds_changes_no_answer_and_is_named_to_the_operator(
    node: Node, filled: Engine, browser: Client
) -> None:
    node.client.indices.put_mapping(
        index=filled._alias,  # type: ignore[attr-defined]
        properties={"notes": {"type": "keyword"}},
    )
    forget(filled)
    status = filled.check()
    assert status.ok
    assert "not ours: notes" in status.detail
    assert find_titles(browser, "istnbul") == ["İstanbul"]


def test_a_fresh_index_that_is_changed_while_it_is_filled_does_not_get_to_answer(
    node: Node, filled: Engine, browser: Client
) -> None:
    before = find_index(node, filled)
    with filled.start_rebuild() as rebuild:
        node.client.indices.put_mapping(
            index=rebuild._index,  # type: ignore[attr-defined]
            properties={"status": {"type": "integer", "coerce": False}},
        )
        with pytest.raises(SearchUnavailable, match="changed by hand"):
            rebuild.publish()
    assert find_index(node, filled) == before
    assert find_titles(browser, "istnbul") == ["İstanbul"]

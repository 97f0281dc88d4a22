"""Answers out of the cache: the same, never older than they say, never somebody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client

from ingest import readthrough
from ingest.changes import read_state
from ingest.models import ErrorLog, Outbox, Record, Source
from ingest.readthrough import read_through
from portal.accounts.models import User
from search.engines.tantivy import TantivyEngine, TantivyView
from search.errors import SearchUnavailable

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]
SEARCH = "/api/search/?q=leaf"


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    caches["default"].clear()
    yield
    caches["default"].clear()


def get(user: User, path: str = SEARCH, status: int = 200) -> Any:
    client = Client()
    client.force_login(user)
    response = client.get(path)
    assert response.status_code == status, response.content
    return response


def without_time(response: Any) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    del answer["took_ms"], answer["coverage"]["as_of"]
    return answer


class TestSearch:
    def test_the_second_answer_is_the_first_without_the_engine(
        self, store: Store, drain: Drain, reader: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store("leaf", data={"big": 2**80, "text": "ağaç"})
        drain()
        first = get(reader)
        monkeypatch.setattr(TantivyView, "find", None)

        second = get(reader)

        assert (first["X-Cache"], second["X-Cache"]) == ("miss", "hit")
        assert without_time(first) == without_time(second)
        assert 0 < int(second["X-Cache-TTL"]) <= 60
        assert 59 <= int(second["X-Cache-TTL"]) + int(second["Age"]) <= 61
        assert "X-Cache-TTL" not in first
        assert "Age" not in first

    def test_a_change_counts_from_the_moment_at_which_it_is_searchable(
        self, store: Store, drain: Drain, reader: User
    ) -> None:
        record = store("leaf")
        drain()
        get(reader)
        store("leaf")

        pending = get(reader)
        assert pending["X-Cache"] == "hit"
        assert (pending.json()["total"], pending.json()["coverage"]["pending"]) == (1, 1)

        drain()
        fresh = get(reader)
        assert fresh["X-Cache"] == "miss"
        assert (fresh.json()["total"], fresh.json()["coverage"]["pending"]) == (2, 0)

        record.delete()
        drain()
        assert get(reader).json()["total"] == 1

    def test_it_is_shared_by_those_who_may_see_the_same(
        self, store: Store, drain: Drain, source: Source, owner: User, reader: User, staff: User
    ) -> None:
        store("leaf")
        ErrorLog.objects.create(
            error_type="leaf", message="", source=source, occurred_at=read_state().as_of
        )
        drain()

        answers = [get(user) for user in (reader, owner, staff)]

        assert [answer.json()["total"] for answer in answers] == [1, 2, 2]
        assert [answer["X-Cache"] for answer in answers] == ["miss", "miss", "miss"]
        another = User.objects.create_user("another@example.org")
        assert get(another)["X-Cache"] == "hit"

    def test_whose_source_it_is_counts_at_once(
        self, store: Store, drain: Drain, source: Source, owner: User, reader: User
    ) -> None:
        ErrorLog.objects.create(
            error_type="leaf", message="", source=source, occurred_at=read_state().as_of
        )
        drain()
        assert get(owner).json()["total"] == 1

        Source.objects.filter(pk=source.pk).update(owner=reader)

        assert get(owner).json()["total"] == 0
        assert get(reader).json()["total"] == 1

    @pytest.mark.parametrize(
        "other",
        ["&size=5", "&parts=hits", "&sort=time", "&kind=record", "+", "&until=2030-01-01"],
    )
    def test_another_question_is_another_answer(
        self, store: Store, drain: Drain, reader: User, other: str
    ) -> None:
        store("leaf")
        drain()
        get(reader)

        assert get(reader, SEARCH + other)["X-Cache"] == "miss"

    def test_an_engine_that_is_down_is_told_whatever_was_kept(
        self, store: Store, drain: Drain, reader: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store("leaf")
        drain()
        get(reader)

        def refuse(engine: TantivyEngine, **options: Any) -> None:
            raise SearchUnavailable

        monkeypatch.setattr(TantivyEngine, "ping", refuse)

        assert get(reader, status=503)["Retry-After"]

    def test_a_failure_is_not_kept(
        self, store: Store, drain: Drain, reader: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store("leaf")
        drain()

        def fail(*args: Any, **options: Any) -> None:
            raise SearchUnavailable

        with monkeypatch.context() as broken:
            broken.setattr(TantivyView, "find", fail)
            assert "X-Cache" not in get(reader, status=503)

        assert get(reader).json()["total"] == 1

    def test_emptied_it_is_filled_again(self, store: Store, drain: Drain, reader: User) -> None:
        store("leaf")
        drain()
        get(reader)
        caches["default"].clear()

        assert [get(reader)["X-Cache"] for _ in range(2)] == ["miss", "hit"]

    def test_switched_off_it_says_nothing(
        self, store: Store, drain: Drain, reader: User, settings: Any
    ) -> None:
        settings.CACHE_TTL = 0
        store("leaf")
        drain()

        for _ in range(2):
            assert "X-Cache" not in get(reader)

    def test_without_redis_every_answer_is_made_anew(
        self, store: Store, drain: Drain, reader: User, settings: Any, tmp_path: Any
    ) -> None:
        store("leaf")
        drain()
        here = settings.CACHES["default"]
        settings.CACHES = {"default": here | {"LOCATION": f"unix://{tmp_path}/gone.sock?db=3"}}

        try:
            assert [get(reader)["X-Cache"] for _ in range(2)] == ["miss", "miss"]
        finally:
            settings.CACHES = {"default": here}


class TestRecordsAndSources:
    def test_a_record_is_kept_until_one_changes(
        self, store: Store, drain: Drain, reader: User
    ) -> None:
        record = store("leaf")
        drain()
        path = f"/api/records/{record.pk}/"
        assert [get(reader, path)["X-Cache"] for _ in range(2)] == ["miss", "hit"]
        assert get(reader, path).json() == get(reader, path).json()

        Record.objects.filter(pk=record.pk).update(title="branch")
        assert get(reader, path).json()["title"] == "branch"
        drain()
        assert get(reader, path).json()["title"] == "branch"

        record.delete()
        get(reader, path, status=404)
        drain()
        get(reader, path, status=404)

    def test_a_list_of_records_is_kept_by_its_whole_address(
        self, store: Store, drain: Drain, reader: User
    ) -> None:
        store("leaf")
        drain()
        assert [get(reader, "/api/records/")["X-Cache"] for _ in range(2)] == ["miss", "hit"]
        assert get(reader, "/api/records/?size=1")["X-Cache"] == "miss"

        store("leaf")
        assert len(get(reader, "/api/records/").json()["results"]) == 2

    @pytest.mark.parametrize("path", ["/api/sources/", "/api/sources/cities/"])
    def test_sources_are_kept_until_one_changes(
        self, source: Source, reader: User, path: str
    ) -> None:
        assert [get(reader, path)["X-Cache"] for _ in range(2)] == ["miss", "hit"]

        Source.objects.filter(pk=source.pk).update(configuration={"name": "renamed"})

        changed = get(reader, path)
        assert changed["X-Cache"] == "miss"
        assert "renamed" in changed.content.decode()

    def test_a_record_of_a_source_that_was_archived_is_gone(
        self, store: Store, drain: Drain, source: Source, reader: User
    ) -> None:
        record = store("leaf")
        drain()
        get(reader, f"/api/records/{record.pk}/")

        Source.objects.filter(pk=source.pk).update(archived_at=read_state().as_of)

        get(reader, f"/api/records/{record.pk}/", status=404)


class TestReadThrough:
    def test_of_many_who_ask_at_once_one_makes_the_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        comes = threading.Semaphore(0)

        class ToldLock:
            """Tells of each who finds it taken, and would wait for it."""

            def __init__(self) -> None:
                self._lock = threading.Lock()
                self.release = self._lock.release

            def acquire(self, *arguments: Any, **options: Any) -> bool:
                is_mine = self._lock.acquire(*arguments, **options)
                if not is_mine:
                    comes.release()
                return is_mine

        monkeypatch.setattr(readthrough, "threading", SimpleNamespace(Lock=ToldLock))
        begun, go_on = threading.Event(), threading.Event()

        def make() -> str:
            asked.append(1)
            begun.set()
            go_on.wait(30)
            return "answer"

        found: list[str] = []

        def ask() -> None:
            answer, _ = read_through(("question",), stamp=1, make=make, wait_seconds=30)
            found.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        threads[0].start()
        assert begun.wait(10), "Timeout"
        for thread in threads[1:]:
            thread.start()
        for _ in threads[1:]:
            assert comes.acquire(timeout=10), "Timeout"
        go_on.set()
        for thread in threads:
            thread.join()

        assert (len(asked), found) == (1, ["answer"] * 4)

    def test_what_is_too_large_is_not_kept(self) -> None:
        for _ in range(2):
            _, origin = read_through(("large",), stamp=1, make=lambda: "x" * 200_000)
            assert not origin.is_hit

    def test_two_questions_in_one_place_are_not_confused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ingest.readthrough.SLOTS", 1)
        questions = ["a", "b", "b", "a"]

        answers = [read_through((text,), stamp=1, make=partial(str, text))[0] for text in questions]

        assert answers == questions


def test_a_storm_of_changes_is_counted_whole(
    store: Store, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain()
    monkeypatch.setattr("ingest.changes.COUNTED_ROWS", 3)
    for _ in range(5):
        store("leaf")

    state = read_state()

    assert state.pending == 5
    assert state.as_of == Outbox.objects.earliest("queued_at").queued_at
    drain()
    assert read_state().pending == 0

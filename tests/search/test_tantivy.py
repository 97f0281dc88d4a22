"""The embedded engine keeps the contract of all engines, and what it owes beyond."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tantivy

from search.engines.base import Deadline, Engine
from search.engines.tantivy import TantivyEngine, TantivyView
from search.engines.tantivy_index import name_layout, translated
from search.errors import SearchTimeout, SearchUnavailable
from search.services import find_hits
from tests.search.contract import STAFF, EngineContract, ask, fill, find, make_document, titles


@pytest.fixture
def empty_engine(tmp_path: Path) -> Engine:
    return TantivyEngine(tmp_path / "index")


@pytest.fixture
def engine(empty_engine: Engine) -> Engine:
    with empty_engine.start_rebuild() as rebuild:
        rebuild.publish()
    return empty_engine


class TestTantivy(EngineContract):
    pass


def test_another_process_sees_a_commit_at_its_next_search(engine: Engine, tmp_path: Path) -> None:
    other = TantivyEngine(tmp_path / "index")
    assert titles(other, "") == []
    fill(engine, [make_document("shared")])
    assert titles(other, "") == ["shared"]


def test_an_open_index_follows_a_rebuild_of_another_process(engine: Engine, tmp_path: Path) -> None:
    fill(engine, [make_document("old")])
    assert titles(engine, "") == ["old"]
    with TantivyEngine(tmp_path / "index").start_rebuild() as rebuild:
        rebuild.apply(upserts=[make_document("new")])
        rebuild.publish()
    assert titles(engine, "") == ["new"]


def test_a_rebuild_removes_older_indexes(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "index" / "0123456789-1").mkdir()
    with engine.start_rebuild() as rebuild:
        rebuild.publish()
    folders = [path for path in (tmp_path / "index").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert folders[0].name.startswith(name_layout())


def test_ties_are_broken_without_reading_all_of_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, [make_document("equal", pk=pk) for pk in range(3_000, 0, -1)])
    limits: list[int] = []
    run = TantivyView.run

    def count(self: TantivyView, query: tantivy.Query, limit: int, **options: Any) -> Any:
        limits.append(limit)
        return run(self, query, limit, **options)

    monkeypatch.setattr(TantivyView, "run", count)
    _, found = find(engine, ask("equal", size="20"))
    assert [hit.shown["id"] for hit in found.hits] == [f"record-{pk}" for pk in range(1, 22)]
    assert sum(limits) < 2_000


def _search_in_child(engine: TantivyEngine, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    answers.put(titles(engine, "forked"))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_engine_that_was_open_before_a_fork_works_in_the_child(engine: TantivyEngine) -> None:
    fill(engine, [make_document("forked")])
    assert titles(engine, "forked") == ["forked"]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_search_in_child, args=(engine, answers))
    child.start()
    try:
        assert answers.get(timeout=20) == ["forked"]
    except queue.Empty:
        raise TimeoutError("the child does not answer") from None
    finally:
        child.join(5)
        child.kill()
        child.join()
        answers.close()


def test_a_panic_of_the_engine_is_an_outage_not_a_crash(engine: Engine) -> None:
    schema = tantivy.SchemaBuilder().add_text_field("title").build()
    with pytest.raises(SearchUnavailable) as raised, translated():
        tantivy.Query.phrase_query(schema, "title", ["one"])
    assert "panic" in raised.value.detail


def test_a_damaged_index_is_an_outage(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "index" / (tmp_path / "index" / "current").read_text()
    (folder / "meta.json").write_text("{")
    with pytest.raises(SearchUnavailable):
        find(TantivyEngine(tmp_path / "index"), ask("x"))


def test_a_writer_that_waits_too_long_says_so(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.engines.tantivy_index.WRITER_WAIT_SECONDS", 0.05)
    folder = tmp_path / "index" / (tmp_path / "index" / "current").read_text()
    holder = tantivy.Index.open(os.fspath(folder)).writer(15_000_000, 1)
    with pytest.raises(SearchUnavailable) as raised:
        engine.apply(upserts=[make_document("late")], deletes=[])
    assert "LockBusy" in raised.value.detail
    holder.wait_merging_threads()
    fill(engine, [make_document("now")])
    assert titles(engine, "") == ["now"]


def test_a_search_that_takes_too_long_is_not_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, [make_document("slow")])
    view = engine.open()
    is_over = threading.Event()
    monkeypatch.setattr(TantivyView, "run", lambda *args, **options: is_over.wait(30))
    started_at = time.monotonic()
    try:
        with pytest.raises(SearchTimeout):
            find_hits(view, ask("slow"), STAFF, Deadline(0.2))
        assert time.monotonic() - started_at < 5
    finally:
        is_over.set()

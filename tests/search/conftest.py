"""Fixtures of the search tests: an index of their own for each test, and rows to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from ingest.models import Record, Source
from portal.accounts.models import User
from search import engines, indexer
from search.engines.base import Engine

pytest.register_assert_rewrite("tests.search.contract")


@pytest.fixture(autouse=True)
def patience(settings: Any) -> None:
    """The machine of a test may be busy; the budget of a query has tests of its own."""
    settings.SEARCH_TIMEOUT_SECONDS = 30


@pytest.fixture
def index_dir(tmp_path: Path, settings: Any) -> Iterator[Path]:
    """A folder without an index in it."""
    settings.SEARCH_INDEX_DIR = tmp_path / "index"
    engines._make_engine.cache_clear()
    yield settings.SEARCH_INDEX_DIR
    engines._make_engine.cache_clear()


@pytest.fixture
def engine(index_dir: Path) -> Engine:
    """The embedded engine with an empty index."""
    engine = engines.get_engine()
    with engine.start_rebuild() as rebuild:
        rebuild.publish()
    return engine


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("owner@example.org")


@pytest.fixture
def reader(db: None) -> User:
    return User.objects.create_user("reader@example.org")


@pytest.fixture
def staff(db: None) -> User:
    return User.objects.create_user("staff@example.org", is_staff=True)


@pytest.fixture
def source(owner: User) -> Source:
    return Source.objects.create(slug="cities", name="Cities", owner=owner, configuration={})


@pytest.fixture
def store(source: Source) -> Callable[..., Record]:
    """Stores a record; a test states only the fields that it is about."""
    counter = iter(range(1, 1_000_000))

    def make(title: str = "", **fields: Any) -> Record:
        key = str(next(counter))
        now = timezone.now()
        given = {"source": source, "key": key, "data": {"id": key}, "content_hash": key}
        times = {"occurred_at": now, "stored_at": now, "updated_at": now}
        return Record.objects.create(**(given | times | {"title": title} | fields))

    return make


@pytest.fixture
def drain(index_dir: Path) -> Callable[[], int]:
    """Moves everything that waits into the index."""
    return indexer.drain_everything

"""The port: what the portal needs of a search engine, and the types that cross it.

An engine stores documents, answers plans and replaces its whole index at once. It raises
`search.errors.SearchUnavailable` (or one of its kinds) and nothing of its own library.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from search.cursor import Position
from search.documents import Document
from search.errors import SearchTimeout, SearchUnavailable
from search.plan import Plan

FACETS = ("kind", "source", "outcome", "status")


class IndexMissing(SearchUnavailable):
    """There is no index yet (or none of the present layout): it must be created and filled."""


class Order(Enum):
    """Ties are always broken by `tie`, ascending."""

    BEST = "score"
    OLDEST = "time"
    NEWEST = "-time"


@dataclass(frozen=True, slots=True)
class EngineHit:
    """A hit: its order key and tie, its score in whole units, and `Document.shown()` parsed."""

    value: int
    tie: int
    score_units: int | None
    shown: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A page of hits. `all_ties` names every match where there are few, to count them again."""

    total: int
    hits: list[EngineHit]
    all_ties: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts over all hits: per facet {value: count}, and {bucket start in µs: count}.

    Documents without a value are in no facet entry.
    """

    facets: dict[str, dict[str | int, int]]
    histogram: dict[int, int]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch: everything is searchable but `rejected` ({document id: reason})."""

    rejected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """`detail` is for the operator, `reason` for anybody (as in SearchUnavailable).

    `is_missing`: the engine is well, but there is no index yet.
    """

    ok: bool
    detail: str
    reason: str = ""
    is_missing: bool = False


class Deadline:
    """The time budget of one query."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def remaining_seconds(self) -> float:
        return self._ends_at - time.monotonic()

    def check(self) -> None:
        """Raises SearchTimeout when the budget is spent."""
        if self.remaining_seconds < 0:
            raise SearchTimeout


class View(Protocol):
    """The index as it was at one moment; all reads of one answer go through one view."""

    def find(
        self, plan: Plan, *, order: Order, size: int, after: Position | None, deadline: Deadline
    ) -> Found:
        """The first `size` hits after the position, and how many documents match in all."""
        ...

    def read_time_bounds(self) -> tuple[int, int] | None:
        """The earliest and latest `at_us` of the index; None when it is empty."""
        ...

    def summarise(
        self, plan: Plan, found: Found, *, interval_us: int, deadline: Deadline
    ) -> Summary:
        """Facets and histogram over everything that matches. `found` is what `find` gave."""
        ...

    def find_present(self, document_ids: Iterable[str]) -> set[str]: ...

    def count(self) -> int: ...

    def close(self) -> None:
        """Gives back what the engine holds for the view; one that is forgotten expires."""
        ...


class Rebuild(Protocol):
    """A fresh index that is filled beside the one that answers."""

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied: ...

    def count(self) -> int: ...

    def publish(self) -> None:
        """Answers come from the fresh index from now on."""
        ...

    def discard(self) -> None: ...


class Engine(Protocol):
    name: str

    def open(self) -> View:
        """The index with everything that was applied before. Raises IndexMissing."""
        ...

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        """Stores and removes documents; they are searchable on return. Idempotent.

        `upserts` is read to its end before `deletes`: what is absent is known only then. Raises
        SearchUnavailable when the batch as a whole failed; then it may be given again.
        """
        ...

    def start_rebuild(self) -> AbstractContextManager[Rebuild]:
        """A fresh index; leaving the block without `publish` discards it."""
        ...

    def check(self) -> Status: ...

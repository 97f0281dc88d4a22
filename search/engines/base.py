"""The port: what the portal needs of a search engine, and the types that cross it.

An engine stores documents, answers plans and replaces its whole index at once. It raises
`search.errors.SearchUnavailable` (or one of its kinds) and nothing of its own library.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
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


class IndexOutgrown(SearchUnavailable):
    """A newer version of the portal keeps the index: a process of an older one must not write."""


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
class Summary:
    """Counts over all hits: per facet {value: count}, and {bucket start in µs: count}.

    Documents without a value are in no facet entry. A bucket spans `interval_us`.
    """

    facets: dict[str, dict[str | int, int]]
    histogram: dict[int, int]
    interval_us: int


@dataclass(frozen=True, slots=True)
class Found:
    """A page of hits of `plan`, how many there are in all, and the counts if they were wanted."""

    plan: Plan
    total: int
    hits: list[EngineHit]
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch: everything is searchable but `rejected` ({document id: reason})."""

    rejected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """`detail` is for the operator, `reason` for anybody (as in SearchUnavailable).

    `is_missing`: the engine is well, but there is no index yet. `is_outdated`: the index was built
    by another version; it answers and takes changes, until a rebuild replaces it.
    """

    ok: bool
    detail: str
    reason: str = ""
    is_missing: bool = False
    is_outdated: bool = False


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

    def limit(self, seconds: float) -> float:
        """At most `seconds`, and what is left. Raises SearchTimeout when nothing is."""
        left = self.remaining_seconds
        if left <= 0:
            raise SearchTimeout
        return min(seconds, left)


# For what is no part of a search that somebody waits for.
NO_DEADLINE = Deadline(math.inf)


class View(Protocol):
    """The index as one answer reads it. What one call answers is of one moment."""

    def find(
        self,
        plans: Sequence[Plan],
        *,
        order: Order,
        size: int,
        after: Position | None,
        interval_us: int | None,
        deadline: Deadline,
    ) -> Found:
        """The first `size` hits after the position of the plan that answers. With `interval_us`
        also the counts over everything that it matches.

        That plan is the first with enough hits of which one meets all words; or else the first with
        enough hits; or else the last. Each plan finds whatever those before it find.
        """
        ...

    def read_time_bounds(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[int, int] | None:
        """The earliest and latest `at_us` of the index, as of lately; None when it is empty."""
        ...

    def scan(self, plan: Plan, *, order: Order, batch: int = 1_000) -> Iterator[EngineHit]:
        """Everything that matches, in order, `batch` documents in memory at a time. No deadline:
        this is for exports. The view must be pinned, and stay open until the end."""
        ...

    def find_present(self, document_ids: Iterable[str]) -> set[str]: ...

    def read_shown(self, document_ids: Iterable[str]) -> dict[str, bytes]:
        """`Document.shown()` of those that are there, byte for byte as it was given."""
        ...

    def count(self) -> int: ...

    def close(self) -> None:
        """Gives back what the engine holds for the view; one that is forgotten expires."""
        ...


class Rebuild(Protocol):
    """A fresh index that is filled beside the one that answers."""

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied: ...

    def open(self) -> View:
        """The fresh index with everything that was applied before."""
        ...

    def publish(self) -> None:
        """Answers come from the fresh index from now on. Atomic."""
        ...


class Engine(Protocol):
    name: str

    def open(self, *, is_pinned: bool = False, deadline: Deadline = NO_DEADLINE) -> View:
        """The index with everything that was applied before. Raises IndexMissing.

        All that a pinned view answers is of one moment, however long it is read.
        """
        ...

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        """Stores and removes documents; they are searchable on return. Idempotent.

        `upserts` is read to its end before `deletes`: what is absent is known only then. Raises
        SearchUnavailable when the batch as a whole failed; then it may be given again. Raises
        IndexOutgrown.
        """
        ...

    def rest(self) -> None:
        """Gives back what `apply` keeps for the next batch, so that other processes may write."""
        ...

    def start_rebuild(self) -> AbstractContextManager[Rebuild]:
        """A fresh index. Leaving the block discards it; after `publish`, the one it replaced."""
        ...

    def remove_unfinished(self) -> None:
        """Removes what rebuilds that were killed, or could not, left behind. Call it while none is
        under way."""
        ...

    def ping(self, *, deadline: Deadline = NO_DEADLINE) -> None:
        """Raises SearchUnavailable when a search could not be answered; far cheaper than one."""
        ...

    def check(self) -> Status: ...

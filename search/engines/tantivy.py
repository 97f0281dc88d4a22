"""The embedded engine: a tantivy index in the data folder.

Where it lives and how it is written is in `tantivy_index.py`; here it is read. Measured facts
behind the oddities are in docs/decisions/0021 and 0022.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tantivy

from search.cursor import Position
from search.documents import Document
from search.engines.base import (
    FACETS,
    NO_DEADLINE,
    Applied,
    Deadline,
    EngineHit,
    Found,
    IndexMissing,
    Order,
    Status,
    Summary,
)
from search.engines.tantivy_index import (
    SCHEMA,
    FreshFolder,
    KeptWriter,
    find_current,
    is_outdated,
    refuse_newer,
    remove_all_but_current,
    translated,
)
from search.errors import SearchTimeout, SearchUnavailable
from search.plan import (
    ADJACENCY_POINTS,
    FIELD_BOOSTS,
    PHRASE_POINTS,
    RANK_UNIT,
    Clause,
    Plan,
    Tier,
)
from search.query import Filter, Kind, StatusFilter

MUST, SHOULD, MUST_NOT = tantivy.Occur.Must, tantivy.Occur.Should, tantivy.Occur.MustNot
INTEGER = tantivy.FieldType.Integer

# Hits asked for beyond the page, so that most ties end within the first search.
_SLACK = 30
_PROBE_HITS = 500
_FEW_HITS = 500
_MAX_FACET_VALUES = 10_000
# Documents that are read one by one rather than counted.
_READ_PRESENT = 50
_SCAN_WINDOW = 100_000
Ranked = np.ndarray[Any, np.dtype[Any]]
_RANKED = np.dtype([("value", "i8"), ("tie", "i8"), ("segment", "u4"), ("doc", "u4")])


class TantivyEngine:
    """Opened lazily in each process: an index opened before a fork would deadlock in the child."""

    name = "tantivy"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self._writer = KeptWriter()

    def open(self, *, is_pinned: bool = False, deadline: Deadline = NO_DEADLINE) -> TantivyView:
        """Views are pinned in any case."""
        folder = find_current(self._directory)
        try:
            return self._open(folder)
        except SearchUnavailable:
            # A rebuild may have replaced it between the two lines above.
            if find_current(self._directory) == folder:
                raise
            return self._open(find_current(self._directory))

    def _open(self, folder: Path) -> TantivyView:
        with self._lock, translated():
            opened = self._opened
            if opened is None or opened.pid != os.getpid() or opened.folder != folder:
                opened = self._opened = _Opened(
                    os.getpid(), folder, tantivy.Index.open(str(folder))
                )
            return opened.refresh()

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        folder = find_current(self._directory)
        refuse_newer(folder)
        return self._writer.choose(folder).write(upserts=upserts, deletes=deletes)

    def rest(self) -> None:
        self._writer.close()

    @contextmanager
    def start_rebuild(self) -> Iterator[TantivyRebuild]:
        fresh = FreshFolder(self._directory)
        try:
            yield TantivyRebuild(fresh)
        finally:
            self._writer.close()
            fresh.end()

    def remove_unfinished(self) -> None:
        remove_all_but_current(self._directory)

    def ping(self, *, deadline: Deadline = NO_DEADLINE) -> None:
        find_current(self._directory)

    def check(self) -> Status:
        try:
            view = self.open()
            folder = find_current(self._directory)
            return Status(
                ok=True,
                detail=f"{view.count()} documents",
                is_outdated=is_outdated(folder),
            )
        except SearchUnavailable as error:
            return Status(
                ok=False,
                detail=error.detail,
                reason=error.reason,
                is_missing=isinstance(error, IndexMissing),
            )


class _Opened:
    """An index of this process, and the view of its latest commit."""

    def __init__(self, pid: int, folder: Path, index: tantivy.Index) -> None:
        self.pid = pid
        self.folder = folder
        self._index = index
        self._commit: tuple[int, int] | None = None
        self._view: TantivyView | None = None

    def refresh(self) -> TantivyView:
        # A commit replaces meta.json, so its identity tells whether there is anything to reload.
        stat = (self.folder / "meta.json").stat()
        commit = (stat.st_ino, stat.st_mtime_ns)
        if self._view is None or commit != self._commit:
            self._index.reload()
            self._view = TantivyView(self._index.searcher())
            self._commit = commit
        return self._view


class TantivyRebuild:
    def __init__(self, fresh: FreshFolder) -> None:
        self._fresh = fresh

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied:
        return self._fresh.apply(upserts=upserts, deletes=deletes)

    def open(self) -> TantivyView:
        self._fresh.commit()
        with translated():
            return TantivyView(tantivy.Index.open(str(self._fresh.path)).searcher())

    def publish(self) -> None:
        self._fresh.publish()


# --- reading ----------------------------------------------------------------------------------


class _Ranked(NamedTuple):
    value: int
    tie: int
    address: tantivy.DocAddress


class _Answer(NamedTuple):
    plan: Plan
    search: _Search
    page: list[_Ranked]


class TantivyView:
    def __init__(self, searcher: tantivy.Searcher) -> None:
        self._searcher = searcher
        self._bounds: dict[str, tuple[int, int] | None] = {}

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
        def ask(plan: Plan) -> _Answer:
            search = _Search(self, compile_plan(plan), order=order, deadline=deadline)
            return _Answer(plan, search, search.collect(size, after))

        def find_now() -> Found:
            with translated():
                plan, search, page = self._ask_in_turn(plans, ask, deadline)
                hits = [
                    EngineHit(
                        value=hit.value,
                        tie=hit.tie,
                        score_units=hit.value if order is Order.BEST else None,
                        shown=self._read_shown(hit.address),
                    )
                    for hit in page
                ]
                summary = None if interval_us is None else self._summarise(search, interval_us)
            return Found(plan, search.total, hits, summary)

        return _run_in_time(find_now, deadline)

    def _ask_in_turn(
        self, plans: Sequence[Plan], ask: Callable[[Plan], _Answer], deadline: Deadline
    ) -> _Answer:
        for place, plan in enumerate(plans):
            answer = ask(plan)
            if answer.search.total >= plan.enough_hits:
                # Later plans find enough as well, so of them only this has to be known.
                better = self._find_whole(plans[place:], deadline)
                return answer if better is plan else ask(better)
        return answer

    def _find_whole(self, plans: Sequence[Plan], deadline: Deadline) -> Plan:
        """The first plan with a hit that meets all words, or else the first one."""
        if len(plans) > 1 and plans[0].may_lack_words:
            for plan in plans:
                deadline.check()
                if self.run(compile_plan(plan.require_all_words()), 1, count=False).hits:
                    return plan
        return plans[0]

    def scan(self, plan: Plan, *, order: Order, batch: int = 1_000) -> Iterator[EngineHit]:
        with translated():
            ordered = _rank_all(self, compile_plan(plan), order=order)
        for start in range(0, len(ordered), batch):
            with translated():
                hits = [
                    EngineHit(
                        value=int(value),
                        tie=int(tie),
                        score_units=int(value) if order is Order.BEST else None,
                        shown=self._read_shown(tantivy.DocAddress(int(segment), int(doc))),
                    )
                    for value, tie, segment, doc in ordered[start : start + batch]
                ]
            yield from hits

    def read_time_bounds(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[int, int] | None:
        with translated():
            return self.read_bounds("at_us")

    def _summarise(self, search: _Search, interval_us: int) -> Summary:
        search.deadline.check()
        wanted: dict[str, Any] = {
            name: {"terms": {"field": name, "size": _MAX_FACET_VALUES}} for name in FACETS
        }
        wanted["histogram"] = {
            "histogram": {"field": "at_us", "interval": interval_us, "min_doc_count": 1}
        }
        # A misspelled word is dear to look up and finds little: count what it found.
        ties = search.all_ties
        counts = self._searcher.aggregate(search.query if ties is None else _any_tie(ties), wanted)
        return Summary(
            facets={name: _read_buckets(counts[name]) for name in FACETS},
            histogram={
                int(bucket["key"]): bucket["doc_count"]
                for bucket in counts["histogram"]["buckets"]
                if bucket["doc_count"]
            },
            interval_us=interval_us,
        )

    def find_present(self, document_ids: Iterable[str]) -> set[str]:
        with translated():
            return self._find_present(list(set(document_ids)))

    def _find_present(self, wanted: list[str]) -> set[str]:
        """Counts, and looks closer where some are absent: an id has one document."""
        if not wanted:
            return set()
        query = tantivy.Query.term_set_query(SCHEMA, "id", wanted)
        if len(wanted) <= _READ_PRESENT:
            result = self._searcher.search(query, len(wanted), count=False)
            return {self._read_shown(address)["id"] for _, address in result.hits}
        count = self.run(query, 1).count
        if count in (0, len(wanted)):
            return set(wanted) if count else set()
        middle = len(wanted) // 2
        return self._find_present(wanted[:middle]) | self._find_present(wanted[middle:])

    def read_shown(self, document_ids: Iterable[str]) -> dict[str, bytes]:
        wanted = list(document_ids)
        if not wanted:
            return {}
        with translated():
            query = tantivy.Query.term_set_query(SCHEMA, "id", wanted)
            result = self._searcher.search(query, len(wanted), count=False)
            found = [bytes(self._searcher.doc(place)["shown"][0]) for _, place in result.hits]
        return {json.loads(shown)["id"]: shown for shown in found}

    def count(self) -> int:
        return int(self._searcher.num_docs)

    def close(self) -> None:
        """Views are shared, and freed with the last reference."""

    def read_bounds(self, field: str) -> tuple[int, int] | None:
        """The smallest and largest value of an integer field; kept, as the view never changes."""
        if field not in self._bounds:
            ends = [
                self._searcher.search(
                    tantivy.Query.all_query(), 1, count=False, order_by_field=field, order=order
                ).hits
                for order in (tantivy.Order.Asc, tantivy.Order.Desc)
            ]
            self._bounds[field] = (ends[0][0][0], ends[1][0][0]) if all(ends) else None
        return self._bounds[field]

    def run(self, query: tantivy.Query, limit: int, **options: Any) -> Any:
        # limit=0 panics.
        return self._searcher.search(query, max(limit, 1), **options)

    def read_ties(self, addresses: list[tantivy.DocAddress]) -> list[int]:
        return [int(tie or 0) for tie in self._searcher.fast_field_values("tie", addresses)]

    def _read_shown(self, address: tantivy.DocAddress) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(bytes(self._searcher.doc(address)["shown"][0]))
        return shown


def _run_in_time(work: Callable[[], Found], deadline: Deadline) -> Found:
    """What `work` gives. Raises SearchTimeout at the end of the budget.

    tantivy cannot be stopped, so what was not done in time goes on in its thread to the end of the
    present search, while the caller has its answer. A thread costs 0.05 ms.
    """
    deadline.check()
    result: list[Found] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # raised again below, in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="search", daemon=True)
    thread.start()
    thread.join(max(deadline.remaining_seconds, 0))
    if thread.is_alive():
        raise SearchTimeout
    if failure:
        raise failure[0]
    deadline.check()
    return result[0]


class _Search:
    """One query in one order, with ties broken by `tie`.

    tantivy orders by one key and breaks ties by the place of a document on disk, which changes with
    every merge. So the first search gives all hits above a boundary value, and of those *at* the
    boundary, of which it may have given any, the ones with the smallest ties are looked for by
    ranges of `tie` (0.2 ms each; a log of a million equal lines has a million ties).
    """

    def __init__(
        self, view: TantivyView, query: tantivy.Query, *, order: Order, deadline: Deadline
    ) -> None:
        self._view = view
        self.query = query
        self._order = order
        self.deadline = deadline
        self._counted = False
        self.total = 0
        self.all_ties: tuple[int, ...] | None = None

    def collect(self, size: int, after: Position | None) -> list[_Ranked]:
        if self._order is Order.BEST:
            return self._collect(self.query, size, after, seen=after.seen if after else 0)
        return self._collect_by_time(size, after)

    def _collect_by_time(self, size: int, after: Position | None) -> list[_Ranked]:
        if after is None:
            return self._collect(self.query, size, None, seen=0)
        # Time is a field, so what comes after the position can be asked for directly.
        self._run(self.query, 1)
        page = self._collect_group(after.value, size, after_tie=after.tie)
        if len(page) < size:
            bounds = (
                (None, after.value - 1) if self._order is Order.NEWEST else (after.value + 1, None)
            )
            rest = _restrict(self.query, "at_us", *bounds)
            page += self._collect(rest, size - len(page), None, seen=0)
        return page

    def _collect(
        self, query: tantivy.Query, size: int, after: Position | None, *, seen: int
    ) -> list[_Ranked]:
        limit = min(seen + size + _SLACK, max(self._view.count(), 1))
        while True:
            result = self._run(query, limit)
            found = [(_read_value(value, self._order), address) for value, address in result.hits]
            if len(found) >= result.count:
                if query is self.query:
                    ties = self._view.read_ties([address for _, address in found])
                    self.all_ties = tuple(ties) if len(ties) <= _FEW_HITS else None
                return self._sort(found, after)[:size]
            boundary = found[-1][0]
            page = self._sort([hit for hit in found if hit[0] != boundary], after)[:size]
            if len(page) < size and not (after and self._comes_before(boundary, after.value)):
                page += self._collect_group(
                    boundary,
                    size - len(page),
                    after_tie=after.tie if after and after.value == boundary else None,
                )
            if len(page) == size:
                return page
            limit = min(limit * 4, max(self._view.count(), 1))

    def _collect_group(self, value: int, size: int, *, after_tie: int | None) -> list[_Ranked]:
        """The first `size` hits by tie of those whose order value is `value`."""
        bounds = self._view.read_bounds("tie")
        if bounds is None:
            return []
        low = bounds[0] if after_tie is None else max(after_tie + 1, bounds[0])
        width = max((bounds[1] - bounds[0] + 1) * 2 * size // max(self.total, 1), 1)
        timed = self._order is not Order.BEST
        group = _restrict(self.query, "at_us", value, value) if timed else self.query
        page: list[_Ranked] = []
        while low <= bounds[1] and len(page) < size:
            window = _restrict(group, "tie", low, low + width - 1)
            result = self._run(window, _PROBE_HITS)
            found = [(_read_value(key, self._order), address) for key, address in result.hits]
            if len(found) < result.count and not self._comes_before(value, found[-1][0]):
                width = max(width // 4, 1)
                continue
            page += self._sort([hit for hit in found if hit[0] == value], None)
            low, width = low + width, width * 4
        return page[:size]

    def _run(self, query: tantivy.Query, limit: int) -> Any:
        self.deadline.check()
        result = self._view.run(query, limit, **_choose_order(self._order))
        if not self._counted:
            self.total, self._counted = result.count, True
        return result

    def _comes_before(self, left: int, right: int) -> bool:
        return left < right if self._order is Order.OLDEST else left > right

    def _sort(
        self, found: list[tuple[int, tantivy.DocAddress]], after: Position | None
    ) -> list[_Ranked]:
        """In order, without what stands at or before the position."""
        if after:
            found = [hit for hit in found if not self._comes_before(hit[0], after.value)]
        ties = self._view.read_ties([address for _, address in found])
        ranked = [_Ranked(hit[0], tie, hit[1]) for hit, tie in zip(found, ties, strict=True)]
        if after:
            ranked = [hit for hit in ranked if hit.value != after.value or hit.tie > after.tie]
        sign = 1 if self._order is Order.OLDEST else -1
        return sorted(ranked, key=lambda hit: (sign * hit.value, hit.tie))


def _rank_all(view: TantivyView, query: tantivy.Query, *, order: Order) -> Ranked:
    """Order value, tie and place of every hit, in order: 24 bytes each, so that a million fit.

    Collected in windows of `tie`; as ties are unique, a narrow one never holds too many.
    """
    low, last = view.read_bounds("tie") or (0, -1)
    width = _SCAN_WINDOW
    parts = [np.empty(0, _RANKED)]
    while low <= last:
        window = _restrict(query, "tie", low, low + width - 1)
        result = view.run(window, _SCAN_WINDOW, **_choose_order(order))
        if result.count > _SCAN_WINDOW:
            width //= 2
            continue
        ties = view.read_ties([address for _, address in result.hits])
        parts.append(
            np.array(
                [
                    (_read_value(value, order), tie, address.segment_ord, address.doc)
                    for (value, address), tie in zip(result.hits, ties, strict=True)
                ],
                _RANKED,
            )
        )
        low += width
        if result.count < _SCAN_WINDOW // 4:
            width *= 2
    ranked = np.concatenate(parts)
    sign = 1 if order is Order.OLDEST else -1
    in_order: Ranked = ranked[np.lexsort((ranked["tie"], sign * ranked["value"]))]
    return in_order


def _choose_order(order: Order) -> dict[str, Any]:
    if order is Order.BEST:
        return {"weight_by_field": "factor"}
    direction = tantivy.Order.Desc if order is Order.NEWEST else tantivy.Order.Asc
    return {"order_by_field": "at_us", "order": direction}


def _read_value(value: float, order: Order) -> int:
    # Scores are whole units of 1/RANK_UNIT, but for the rounding of 32-bit floats.
    return round(value * RANK_UNIT) if order is Order.BEST else int(value)


def _read_buckets(facet: dict[str, Any]) -> dict[str | int, int]:
    return {
        int(key) if isinstance(key := bucket["key"], float) else key: bucket["doc_count"]
        for bucket in facet["buckets"]
    }


# --- the compiler: plan → tantivy query -------------------------------------------------------


def compile_plan(plan: Plan) -> tantivy.Query:
    if plan.matches_nothing:
        return tantivy.Query.empty_query()
    parts: list[tuple[tantivy.Occur, tantivy.Query]] = []
    if plan.words:
        words = [(SHOULD, _best(_compile_clause(clause) for clause in word)) for word in plan.words]
        parts.append((MUST, tantivy.Query.boolean_query(words, plan.least_matching)))
    parts += [(MUST, _compile_in_fields(phrase, PHRASE_POINTS)) for phrase in plan.scored_phrases]
    parts += [(MUST, _compile_in_fields(phrase, 0)) for phrase in plan.unscored_phrases]
    if not parts:
        # Clauses that only exclude would match nothing.
        parts.append((MUST, tantivy.Query.const_score_query(tantivy.Query.all_query(), 1.0)))
    parts += [(SHOULD, _compile_in_fields(pair, ADJACENCY_POINTS)) for pair in plan.pairs]
    parts += [(SHOULD, _best(_compile_clause(clause) for clause in word)) for word in plan.surplus]
    parts += [
        (MUST_NOT, _compile_phrase(field, phrase))
        for phrase in plan.excluded
        for field in FIELD_BOOSTS
    ]
    filters = _compile_filters(plan)
    parts += [(MUST, _unscored(found)) for found in filters]
    return tantivy.Query.boolean_query(parts)


def _compile_clause(clause: Clause) -> tantivy.Query:
    field, word = clause.indexed
    if clause.tier is Tier.EXACT:
        found = tantivy.Query.term_query(SCHEMA, field, word)
    else:
        found = tantivy.Query.fuzzy_term_query(
            SCHEMA,
            field,
            word,
            clause.edits,
            transposition_cost_one=True,
            prefix=clause.tier in (Tier.PREFIX, Tier.PREFIX_TYPO),
        )
    scored = tantivy.Query.const_score_query(found, float(clause.points))
    if not clause.extras:
        return scored
    more = _best(
        tantivy.Query.const_score_query(tantivy.Query.term_query(SCHEMA, *term), float(points))
        for *term, points in clause.extras
    )
    return tantivy.Query.boolean_query([(MUST, scored), (SHOULD, more)])


def _best(queries: Iterable[tantivy.Query]) -> tantivy.Query:
    return tantivy.Query.disjunction_max_query(list(queries))


def _compile_in_fields(words: tuple[str, ...], points: int) -> tantivy.Query:
    return _best(
        tantivy.Query.const_score_query(_compile_phrase(field, words), float(points * boost))
        for field, boost in FIELD_BOOSTS.items()
    )


def _compile_phrase(field: str, words: tuple[str, ...]) -> tantivy.Query:
    # A phrase of one word panics.
    if len(words) == 1:
        return tantivy.Query.term_query(SCHEMA, field, words[0])
    return tantivy.Query.phrase_query(SCHEMA, field, list(words))


def _any_tie(ties: tuple[int, ...]) -> tantivy.Query:
    if not ties:
        return tantivy.Query.empty_query()
    return tantivy.Query.term_set_query(SCHEMA, "tie", list(ties))


def _unscored(query: tantivy.Query) -> tantivy.Query:
    return tantivy.Query.const_score_query(query, 0.0)


def _restrict(query: tantivy.Query, field: str, low: int | None, high: int | None) -> tantivy.Query:
    return tantivy.Query.boolean_query([(MUST, query), (MUST, _unscored(_range(field, low, high)))])


def _range(field: str, low: int | None, high: int | None) -> tantivy.Query:
    return tantivy.Query.range_query(SCHEMA, field, INTEGER, low, high)


def _compile_filters(plan: Plan) -> Iterator[tantivy.Query]:
    query = plan.query
    for wanted in (*query.filters, *query.text.filters):
        found = _compile_filter(wanted)
        yield _negate(found) if wanted.negated else found
    if query.since_us is not None or query.until_us is not None:
        last = None if query.until_us is None else query.until_us - 1
        yield _range("at_us", query.since_us, last)
    if not plan.visibility.all_errors:
        yield _compile_visibility(plan.visibility.own_sources)
    if plan.visibility.archived_sources:
        archived = list(plan.visibility.archived_sources)
        yield _negate(tantivy.Query.term_set_query(SCHEMA, "source", archived))


def _compile_filter(wanted: Filter) -> tantivy.Query:
    if isinstance(wanted, StatusFilter):
        return _any_of(_range("status", low, high) for low, high in wanted.ranges)
    return tantivy.Query.term_set_query(SCHEMA, wanted.field, list(wanted.values))


def _compile_visibility(own_sources: tuple[str, ...]) -> tantivy.Query:
    """Records are for everybody, fetch errors for the source's owner, server errors for staff."""
    visible = [tantivy.Query.term_query(SCHEMA, "kind", Kind.RECORD.value)]
    if own_sources:
        visible.append(tantivy.Query.term_set_query(SCHEMA, "source", list(own_sources)))
    return _any_of(visible)


def _any_of(queries: Iterable[tantivy.Query]) -> tantivy.Query:
    return tantivy.Query.boolean_query([(SHOULD, query) for query in queries])


def _negate(query: tantivy.Query) -> tantivy.Query:
    return tantivy.Query.boolean_query([(MUST, tantivy.Query.all_query()), (MUST_NOT, query)])

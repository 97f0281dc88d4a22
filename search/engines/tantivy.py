"""The embedded engine: a tantivy index in the data folder.

Files: `<index dir>/<layout>-<n>/` is an index, `<index dir>/<layout>.current` names the one that
answers. `<layout>` is a hash of schema and document version, so a changed layout starts afresh
beside the old index. Measured facts behind the oddities are in docs/decisions/0021 and 0022.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import tantivy

from search.cursor import Position
from search.documents import DOCUMENT_VERSION, Document
from search.engines.base import (
    FACETS,
    Applied,
    Deadline,
    EngineHit,
    Found,
    IndexMissing,
    Order,
    Status,
    Summary,
)
from search.errors import SearchUnavailable
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

WRITER_HEAP_BYTES = 40_000_000
WRITER_WAIT_SECONDS = 5.0
# Hits asked for beyond the page, so that most ties end within the first search.
_SLACK = 30
_PROBE_HITS = 500
_FEW_HITS = 500
_MAX_FACET_VALUES = 10_000


def _build_schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", tokenizer_name="raw", index_option="basic")
    for name in ("kind", "source", "outcome"):
        builder.add_text_field(name, fast=True, tokenizer_name="raw", index_option="basic")
    for name in FIELD_BOOSTS:
        # Fed with the words of search.text, separated by spaces.
        builder.add_text_field(name, tokenizer_name="whitespace")
    for name in ("status", "at_us", "tie"):
        builder.add_integer_field(name, indexed=True, fast=True)
    # tantivy multiplies a score by log2(2 + factor); see _store_factor.
    builder.add_float_field("factor", fast=True)
    builder.add_bytes_field("shown", stored=True)
    return builder.build()


SCHEMA = _build_schema()
# The schema object does not tell its fields; this stands for it. Change both together.
_LAYOUT = "tantivy 1: id kind source outcome title body status at_us tie factor shown"
LAYOUT = hashlib.blake2s(f"{_LAYOUT}/{DOCUMENT_VERSION}".encode(), digest_size=5).hexdigest()


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what tantivy raises into SearchUnavailable.

    A panic in its Rust code arrives as `pyo3_runtime.PanicException`, which cannot be imported and
    derives from BaseException.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        raise SearchUnavailable(f"tantivy: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise SearchUnavailable(f"tantivy panicked: {error}") from error


class TantivyEngine:
    """Opened lazily in each process: an index opened before a fork would deadlock in the child."""

    name = "tantivy"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    def open(self) -> TantivyView:
        folder = self._find_current()
        try:
            return self._open(folder)
        except SearchUnavailable:
            # A rebuild may have replaced it between the two lines above.
            if self._find_current() == folder:
                raise
            return self._open(self._find_current())

    def _open(self, folder: Path) -> TantivyView:
        with self._lock, _translated():
            opened = self._opened
            if opened is None or opened.pid != os.getpid() or opened.folder != folder:
                opened = self._opened = _Opened(
                    os.getpid(), folder, tantivy.Index.open(str(folder))
                )
            return opened.refresh()

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        return _write(self._find_current(), upserts=upserts, deletes=deletes)

    @contextmanager
    def start_rebuild(self) -> Iterator[TantivyRebuild]:
        rebuild = TantivyRebuild(self._directory)
        try:
            yield rebuild
        finally:
            rebuild.discard()

    def check(self) -> Status:
        try:
            view = self.open()
            return Status(ok=True, detail=f"{view.count()} documents")
        except SearchUnavailable as error:
            return Status(
                ok=False,
                detail=error.detail,
                reason=error.reason,
                is_missing=isinstance(error, IndexMissing),
            )

    def _find_current(self) -> Path:
        try:
            folder = self._directory / _pointer(self._directory).read_text().strip()
        except FileNotFoundError:
            raise IndexMissing("There is no search index yet.") from None
        except OSError as error:
            raise SearchUnavailable(f"tantivy: {error}") from error
        if not (folder / "meta.json").exists():
            raise IndexMissing(f"The folder of the search index is gone: {folder.name}")
        return folder


def _pointer(directory: Path) -> Path:
    return directory / f"{LAYOUT}.current"


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
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._folder = directory / f"{LAYOUT}-{time.time_ns()}"
        self._folder.mkdir()
        self._published = False
        with _translated():
            tantivy.Index(SCHEMA, path=str(self._folder))

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied:
        return _write(self._folder, upserts=upserts, deletes=deletes)

    def count(self) -> int:
        with _translated():
            return int(tantivy.Index.open(str(self._folder)).searcher().num_docs)

    def publish(self) -> None:
        """Atomic: the pointer is replaced. Older indexes are removed; open readers keep theirs."""
        pointer = _pointer(self._directory)
        draft = pointer.with_suffix(".draft")
        draft.write_text(self._folder.name)
        draft.replace(pointer)
        self._published = True
        for folder in self._directory.iterdir():
            if folder.is_dir() and folder != self._folder:
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        if not self._published:
            shutil.rmtree(self._folder, ignore_errors=True)


# --- writing ----------------------------------------------------------------------------------


def _write(folder: Path, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
    """One batch, one commit. A writer lives for one batch: nobody holds the index's lock longer."""
    with _translated():
        writer = _open_writer(tantivy.Index.open(str(folder)))
    try:
        rejected = _fill(writer, upserts=upserts, deletes=deletes)
        with _translated():
            writer.commit()
            writer.wait_merging_threads()
    except BaseException:
        # Without rollback the documents so far would go with the next commit of this writer.
        with suppress(Exception):
            writer.rollback()
            writer.wait_merging_threads()
        raise
    return Applied(rejected=rejected)


def _fill(
    writer: tantivy.IndexWriter, *, upserts: Iterable[Document], deletes: Iterable[str]
) -> dict[str, str]:
    rejected = {}
    for document in upserts:
        try:
            stored = _store(document)
        except ValueError as error:
            # This document alone cannot be written; what went before it stays as it is.
            rejected[document.id] = str(error)
            continue
        with _translated():
            writer.delete_documents_by_term("id", document.id)
            writer.add_document(stored)
    for document_id in deletes:
        with _translated():
            writer.delete_documents_by_term("id", document_id)
    return rejected


def _open_writer(index: tantivy.Index) -> tantivy.IndexWriter:
    gives_up_at = time.monotonic() + WRITER_WAIT_SECONDS
    while True:
        try:
            return index.writer(WRITER_HEAP_BYTES, 1)
        except ValueError as error:
            if "LockBusy" not in str(error) or time.monotonic() > gives_up_at:
                raise
            time.sleep(0.01)


def _store(document: Document) -> tantivy.Document:
    fields: dict[str, Any] = {
        "id": document.id,
        "kind": document.kind.value,
        "title": document.title_words,
        "body": document.body_words,
        "at_us": document.at_us,
        "tie": document.tie,
        "factor": _store_factor(document.rank),
        "shown": document.shown(),
    }
    for name, value in (
        ("source", document.source),
        ("outcome", document.outcome),
        ("status", document.status),
    ):
        if value is not None:
            fields[name] = value
    return tantivy.Document.from_dict(fields, SCHEMA)


def _store_factor(rank: int) -> float:
    """The value for which tantivy's log2(2 + value) is the static factor 1 + rank / RANK_UNIT."""
    return float(2 ** (1 + rank / RANK_UNIT) - 2)


# --- reading ----------------------------------------------------------------------------------


class _Ranked(NamedTuple):
    value: int
    tie: int
    address: tantivy.DocAddress


class TantivyView:
    def __init__(self, searcher: tantivy.Searcher) -> None:
        self._searcher = searcher
        self._bounds: dict[str, tuple[int, int] | None] = {}

    def find(
        self, plan: Plan, *, order: Order, size: int, after: Position | None, deadline: Deadline
    ) -> Found:
        with _translated():
            search = _Search(self, compile_plan(plan), order=order, deadline=deadline)
            page = search.collect(size, after)
            hits = [
                EngineHit(
                    value=hit.value,
                    tie=hit.tie,
                    score_units=hit.value if order is Order.BEST else None,
                    shown=self._read_shown(hit.address),
                )
                for hit in page
            ]
        return Found(total=search.total, hits=hits, all_ties=search.all_ties)

    def read_time_bounds(self) -> tuple[int, int] | None:
        with _translated():
            return self.read_bounds("at_us")

    def summarise(
        self, plan: Plan, found: Found, *, interval_us: int, deadline: Deadline
    ) -> Summary:
        deadline.check()
        wanted: dict[str, Any] = {
            name: {"terms": {"field": name, "size": _MAX_FACET_VALUES}} for name in FACETS
        }
        wanted["histogram"] = {
            "histogram": {"field": "at_us", "interval": interval_us, "min_doc_count": 1}
        }
        with _translated():
            # A misspelled word is dear to look up and finds little: count what it found.
            query = compile_plan(plan) if found.all_ties is None else _any_tie(found.all_ties)
            counts = self._searcher.aggregate(query, wanted)
        deadline.check()
        return Summary(
            facets={name: _read_buckets(counts[name]) for name in FACETS},
            histogram={
                int(bucket["key"]): bucket["doc_count"]
                for bucket in counts["histogram"]["buckets"]
                if bucket["doc_count"]
            },
        )

    def find_present(self, document_ids: Iterable[str]) -> set[str]:
        wanted = list(document_ids)
        if not wanted:
            return set()
        with _translated():
            query = tantivy.Query.term_set_query(SCHEMA, "id", wanted)
            result = self._searcher.search(query, len(wanted), count=False)
            return {self._read_shown(address)["id"] for _, address in result.hits}

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
        self._query = query
        self._order = order
        self._deadline = deadline
        self._counted = False
        self.total = 0
        self.all_ties: tuple[int, ...] | None = None

    def collect(self, size: int, after: Position | None) -> list[_Ranked]:
        if self._order is Order.BEST:
            return self._collect(self._query, size, after, seen=after.seen if after else 0)
        return self._collect_by_time(size, after)

    def _collect_by_time(self, size: int, after: Position | None) -> list[_Ranked]:
        if after is None:
            return self._collect(self._query, size, None, seen=0)
        # Time is a field, so what comes after the position can be asked for directly.
        self._run(self._query, 1)
        page = self._collect_group(after.value, size, after_tie=after.tie)
        if len(page) < size:
            bounds = (
                (None, after.value - 1) if self._order is Order.NEWEST else (after.value + 1, None)
            )
            rest = _restrict(self._query, "at_us", *bounds)
            page += self._collect(rest, size - len(page), None, seen=0)
        return page

    def _collect(
        self, query: tantivy.Query, size: int, after: Position | None, *, seen: int
    ) -> list[_Ranked]:
        limit = min(seen + size + _SLACK, max(self._view.count(), 1))
        while True:
            result = self._run(query, limit)
            found = [(self._read_value(value), address) for value, address in result.hits]
            if len(found) >= result.count:
                if query is self._query:
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
        group = _restrict(self._query, "at_us", value, value) if timed else self._query
        page: list[_Ranked] = []
        while low <= bounds[1] and len(page) < size:
            window = _restrict(group, "tie", low, low + width - 1)
            result = self._run(window, _PROBE_HITS)
            found = [(self._read_value(key), address) for key, address in result.hits]
            if len(found) < result.count and not self._comes_before(value, found[-1][0]):
                width = max(width // 4, 1)
                continue
            page += self._sort([hit for hit in found if hit[0] == value], None)
            low, width = low + width, width * 4
        return page[:size]

    def _run(self, query: tantivy.Query, limit: int) -> Any:
        self._deadline.check()
        if self._order is Order.BEST:
            result = self._view.run(query, limit, weight_by_field="factor")
        else:
            newest = self._order is Order.NEWEST
            direction = tantivy.Order.Desc if newest else tantivy.Order.Asc
            result = self._view.run(query, limit, order_by_field="at_us", order=direction)
        if not self._counted:
            self.total, self._counted = result.count, True
        return result

    def _read_value(self, value: float) -> int:
        # Scores are whole units of 1/RANK_UNIT, but for the rounding of 32-bit floats.
        return round(value * RANK_UNIT) if self._order is Order.BEST else int(value)

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


def _read_buckets(facet: dict[str, Any]) -> dict[str | int, int]:
    return {
        int(key) if isinstance(key := bucket["key"], float) else key: bucket["doc_count"]
        for bucket in facet["buckets"]
    }


# --- the compiler: plan → tantivy query -------------------------------------------------------


def compile_plan(plan: Plan) -> tantivy.Query:
    text = plan.query.text
    parts: list[tuple[tantivy.Occur, tantivy.Query]] = []
    if plan.words:
        words = [(SHOULD, _best(_compile_clause(clause) for clause in word)) for word in plan.words]
        parts.append((MUST, tantivy.Query.boolean_query(words, plan.least_matching)))
    parts += [(MUST, _compile_in_fields(phrase, PHRASE_POINTS)) for phrase in text.phrases]
    if not parts:
        # Clauses that only exclude would match nothing.
        parts.append((MUST, tantivy.Query.const_score_query(tantivy.Query.all_query(), 1.0)))
    parts += [(SHOULD, _compile_in_fields(pair, ADJACENCY_POINTS)) for pair in plan.pairs]
    parts += [
        (MUST_NOT, _compile_phrase(field, phrase))
        for phrase in text.excluded
        for field in FIELD_BOOSTS
    ]
    filters = _compile_filters(plan)
    parts += [(MUST, _unscored(found)) for found in filters]
    return tantivy.Query.boolean_query(parts)


def _compile_clause(clause: Clause) -> tantivy.Query:
    if clause.tier is Tier.EXACT:
        found = tantivy.Query.term_query(SCHEMA, clause.field, clause.word)
    else:
        found = tantivy.Query.fuzzy_term_query(
            SCHEMA,
            clause.field,
            clause.word,
            clause.edits,
            transposition_cost_one=True,
            prefix=clause.tier in (Tier.PREFIX, Tier.PREFIX_TYPO),
        )
    return tantivy.Query.const_score_query(found, float(clause.points))


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

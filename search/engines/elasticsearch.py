"""The engine for servers: an Elasticsearch 9.

An index is named `<prefix>-v<version>-<layout>-<n>`; the alias `<prefix>-current` points to the one
that answers. `<layout>` is a hash of mapping and document version; an index of another one goes on
answering, and taking changes, until a rebuild. See docs/decisions/0058 to 0061 and 0079.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError

from search.cursor import Position
from search.documents import DOCUMENT_VERSION, Document, read_mapping
from search.engines.base import (
    FACETS,
    NO_DEADLINE,
    Applied,
    Deadline,
    EngineHit,
    Found,
    IndexMissing,
    IndexOutgrown,
    Order,
    Status,
    Summary,
)
from search.engines.elasticsearch_bulk import write_batch
from search.engines.elasticsearch_errors import (
    changed_by_hand,
    describe_failed_search,
    read_only,
    translated,
)
from search.engines.elasticsearch_plan import (
    compile_all_words,
    compile_plan,
    compile_scored,
    compile_sort,
)
from search.errors import SearchPartial, SearchTimeout, SearchUnavailable
from search.plan import Plan

logger = logging.getLogger(__name__)

MAPPING = read_mapping()

ADMIN_SECONDS = 30.0
# A scan that is forgotten holds old files of the index for so long.
KEEP_ALIVE = "1m"
# Ends the alias of an index that a rebuild fills.
FILLING = "-filling"
# How long to trust that mapping and alias are ours without looking again.
TRUST_SECONDS = 5.0
# The client gives the server a little longer than the server gives itself.
GRACE_SECONDS = 0.1
_MAX_FACET_VALUES = 10_000
# The server works on them side by side; most queries need one or two stages.
_STAGES_AT_ONCE = 2
# Counts the hits that meet all words.
_WHOLE = "whole"
_MAX_IDS = 5_000
_MAX_WHOLE = 500
# Aggregations count in doubles.
_EXACT_DOUBLE = 2**53


def name_layout() -> str:
    """How documents are built and stored, as part of an index's name."""
    facts = json.dumps([MAPPING, DOCUMENT_VERSION], sort_keys=True).encode()
    return f"v{DOCUMENT_VERSION}-{hashlib.blake2s(facts, digest_size=5).hexdigest()}"


class ElasticsearchEngine:
    """`client_options` are those of `elasticsearch.Elasticsearch`.

    `open_seconds` bounds each of the small requests before a search; `closing_seconds` is how long
    a replaced index stays for the searches that are under way.
    """

    name = "elasticsearch"

    def __init__(
        self,
        client_options: Mapping[str, Any],
        *,
        prefix: str,
        index_settings: Mapping[str, Any],
        open_seconds: float,
        closing_seconds: float = 2.0,
    ) -> None:
        self._options = {"retry_on_timeout": False, "max_retries": 0, **client_options}
        self._prefix = prefix
        self._alias = f"{prefix}-current"
        self._index_settings = dict(index_settings)
        self._open_seconds = open_seconds
        self._closing_seconds = closing_seconds
        self._lock = threading.Lock()
        self._made: tuple[int, Elasticsearch] | None = None
        self._bounds = _TimeBounds()
        self._trusted_until = 0.0
        self._is_writable = False

    @property
    def _client(self) -> Elasticsearch:
        # Connections must not be shared over a fork: each process makes its own at its first use.
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                with translated():
                    self._made = (os.getpid(), Elasticsearch(**self._options))
            return self._made[1]

    def open(
        self, *, is_pinned: bool = False, deadline: Deadline = NO_DEADLINE
    ) -> ElasticsearchView:
        if time.monotonic() > self._trusted_until:
            self._inspect(deadline)
        return ElasticsearchView(
            self._client,
            self._alias,
            request_seconds=self._open_seconds,
            bounds=self._bounds,
            is_pinned=is_pinned,
        )

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        if not self._is_writable or time.monotonic() > self._trusted_until:
            index, facts = self._inspect()
            self._refuse_newer(index)
            self._add_missing_fields(facts)
            self._is_writable = True
        rejected = write_batch(self._client, self._alias, upserts=upserts, deletes=deletes)
        if rejected:
            # A wrong mapping refuses every document: that is not the documents' fault.
            self._inspect()
        _refresh(self._client, self._alias)
        self._bounds.forget()
        return Applied(rejected=rejected)

    def rest(self) -> None:
        """Nothing is kept that others would wait for; what they do meanwhile is looked up anew."""
        self._is_writable = False

    @contextmanager
    def start_rebuild(self) -> Iterator[ElasticsearchRebuild]:
        rebuild = ElasticsearchRebuild(
            self._client,
            self._alias,
            prefix=self._prefix,
            settings=self._index_settings,
            closing_seconds=self._closing_seconds,
        )
        try:
            yield rebuild
        finally:
            rebuild.end()
            self._trusted_until = 0.0
            self._bounds.forget()

    def remove_unfinished(self) -> None:
        with translated():
            found = self._client.indices.get(
                index=f"{self._prefix}-v*", features="aliases", allow_no_indices=True
            )
            for index, facts in found.items():
                # One that was replaced has no alias any more.
                is_replaced = _is_ours(index, self._prefix) and not facts["aliases"]
                if is_replaced or f"{index}{FILLING}" in facts["aliases"]:
                    self._client.indices.delete(index=index, ignore_unavailable=True)

    def ping(self, *, deadline: Deadline = NO_DEADLINE) -> None:
        if time.monotonic() > self._trusted_until:
            self._inspect(deadline)
            return
        client = self._client.options(request_timeout=deadline.limit(self._open_seconds))
        with translated():
            is_there = bool(client.indices.exists_alias(name=self._alias))
        if not is_there:
            raise IndexMissing(f"There is no alias {self._alias}.")

    def check(self) -> Status:
        try:
            index, facts = self._inspect()
            if _is_blocked(facts):
                raise read_only(f"{index} is read-only.")
            view = self.open()
            count = view.count()
            view.close()
        except SearchUnavailable as error:
            return Status(
                ok=False,
                detail=error.detail,
                reason=error.reason or error.message,
                is_missing=isinstance(error, IndexMissing),
            )
        return Status(
            ok=True,
            detail=", ".join([f"{count} documents", *_list_strangers(facts)]),
            is_outdated=self._is_outdated(index),
        )

    def _inspect(self, deadline: Deadline = NO_DEADLINE) -> tuple[str, dict[str, Any]]:
        """The index behind the alias. Raises IndexMissing, or SearchUnavailable if it is not ours.

        Somebody's hand may have been there: answers of an index with another mapping are wrong.
        """
        self._trusted_until, self._is_writable = 0.0, False
        seconds = deadline.limit(max(self._open_seconds, 1.0))
        client = self._client.options(request_timeout=seconds)
        with translated():
            found = client.indices.get(index=self._alias, flat_settings=True)
        if len(found) != 1:
            raise changed_by_hand(f"{self._alias} points to several: {', '.join(found)}.")
        ((index, facts),) = found.items()
        problems = []
        if index == self._alias:
            problems.append("an index stands where the alias should be")
        elif not self._is_outdated(index):
            problems += _list_problems(facts)
        if problems:
            raise changed_by_hand(f"{index}: {', '.join(problems)}.")
        self._trusted_until = time.monotonic() + TRUST_SECONDS
        return index, facts

    def _is_outdated(self, index: str) -> bool:
        """Whether another version than this one built the index."""
        return not index.startswith(f"{self._prefix}-{name_layout()}-")

    def _refuse_newer(self, index: str) -> None:
        """Raises IndexOutgrown for the index of a newer version: ours would spoil its documents."""
        version = re.match(r"-v(\d+)-", index.removeprefix(self._prefix))
        if version and int(version[1]) > DOCUMENT_VERSION:
            raise IndexOutgrown(f"A newer version keeps the search index: {index}")

    def _add_missing_fields(self, facts: Mapping[str, Any]) -> None:
        """Lets an index of an earlier version take the documents of this one."""
        known = facts["mappings"].get("properties", {})
        missing = {
            name: field for name, field in MAPPING["properties"].items() if name not in known
        }
        if missing:
            with translated():
                self._client.indices.put_mapping(index=self._alias, properties=missing)


def _list_problems(facts: Mapping[str, Any]) -> Iterator[str]:
    """In what the mapping of an index is not the one that the plan was written for."""
    mapping = facts["mappings"]
    fields = mapping.get("properties", {})
    for name, wanted in MAPPING["properties"].items():
        if fields.get(name) != wanted:
            yield f"the field {name} is not as it should be"
    for name in MAPPING.keys() - {"properties"}:
        if mapping.get(name) != MAPPING[name]:
            yield f"{name} is not as it should be"


def _list_strangers(facts: Mapping[str, Any]) -> Iterator[str]:
    """Fields that are not ours. They change no answer: no document has them."""
    for name in sorted(facts["mappings"]["properties"].keys() - MAPPING["properties"].keys()):
        yield f"the mapping has a field that is not ours: {name}"


def _is_ours(index: str, prefix: str) -> bool:
    return bool(re.fullmatch(rf"{re.escape(prefix)}-v\d+-[0-9a-f]{{10}}-\d+", index))


def _is_blocked(facts: Mapping[str, Any]) -> bool:
    return any(
        facts["settings"].get(f"index.blocks.{name}") == "true"
        for name in ("write", "read_only", "read_only_allow_delete")
    )


def _refresh(client: Elasticsearch, index: str) -> None:
    with translated():
        answer = client.options(request_timeout=ADMIN_SECONDS).indices.refresh(index=index)
    _check_shards(answer["_shards"])


def _check_shards(shards: Mapping[str, Any]) -> None:
    if shards["failed"]:
        raise SearchPartial(f"{shards['failed']} of {shards['total']} shards failed.")


class ElasticsearchRebuild:
    """A fresh index. It is written through an alias of its own, like the one that answers, so that
    one that somebody deletes meanwhile does not come back by itself."""

    def __init__(
        self,
        client: Elasticsearch,
        alias: str,
        *,
        prefix: str,
        settings: Mapping[str, Any],
        closing_seconds: float,
    ) -> None:
        self._client = client.options(request_timeout=ADMIN_SECONDS)
        self._alias = alias
        self._prefix = prefix
        self._index = f"{prefix}-{name_layout()}-{time.time_ns() // 1_000_000}"
        self._filling = f"{self._index}{FILLING}"
        self._settings = dict(settings)
        self._closing_seconds = closing_seconds
        # None: the server was asked to, and has not answered.
        self._published: bool | None = False
        self._replaced: list[str] = []
        with translated():
            answer = self._client.indices.create(
                index=self._index,
                mappings=MAPPING,
                # Copies and refreshes only cost while nobody searches.
                settings={**settings, "number_of_replicas": 0, "refresh_interval": "-1"},
                aliases={self._filling: {}},
                timeout="10s",
            )
        if not answer["shards_acknowledged"]:
            self.end()
            raise SearchUnavailable(f"No node takes the shards of {self._index}.")

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied:
        return Applied(write_batch(self._client, self._filling, upserts=upserts, deletes=deletes))

    def open(self) -> ElasticsearchView:
        _refresh(self._client, self._index)
        return ElasticsearchView(
            self._client, self._index, request_seconds=ADMIN_SECONDS, bounds=_TimeBounds()
        )

    def publish(self) -> None:
        """Atomic: the alias is moved."""
        _refresh(self._client, self._index)
        with translated():
            facts = self._client.indices.get(index=self._index, flat_settings=True)[self._index]
            if problems := list(_list_problems(facts)):
                # An index template of the cluster, for instance.
                raise changed_by_hand(f"The fresh index {self._index}: {', '.join(problems)}.")
            kept = {"number_of_replicas", "refresh_interval"} & self._settings.keys()
            self._client.indices.put_settings(
                index=self._index, settings={name: self._settings[name] for name in kept}
            )
            self._replaced = self._list_answering()
            self._published = None
            self._client.indices.update_aliases(actions=list(self._list_moves(self._replaced)))
        self._published = True

    def end(self) -> None:
        """Removes the index if it was not published, else those that it replaced."""
        if self._published is None:
            self._published = self._is_answering()
        if self._published is None:
            logger.warning("Whether %s answers cannot be learned: nothing is removed.", self._index)
        elif self._published:
            self._remove_replaced()
        else:
            self._remove_own()

    def _is_answering(self) -> bool | None:
        """Whether the alias points to the fresh index; None when that cannot be learned."""
        try:
            with translated():
                return self._index in self._list_answering()
        except SearchUnavailable:
            return None

    def _remove_own(self) -> None:
        try:
            with translated():
                self._client.indices.delete(index=self._index, ignore_unavailable=True)
        except SearchUnavailable as error:
            logger.warning("The unfinished index %s stays behind: %s", self._index, error.detail)

    def _list_answering(self) -> list[str]:
        with suppress(NotFoundError):
            return list(self._client.indices.get(index=self._alias, features="aliases"))
        return []

    def _list_moves(self, answering: list[str]) -> Iterator[dict[str, Any]]:
        for index in answering:
            if index == self._alias:  # made by hand where the alias should be
                yield {"remove_index": {"index": index}}
            else:
                yield {"remove": {"index": index, "alias": self._alias}}
        yield {"add": {"index": self._index, "alias": self._alias}}
        yield {"remove": {"index": self._index, "alias": self._filling}}

    def _remove_replaced(self) -> None:
        """Removes the indexes before this one, once no search is under way on them."""
        if self._replaced:
            time.sleep(self._closing_seconds)
        try:
            with translated():
                known = self._client.indices.get(index=f"{self._prefix}-v*", features="aliases")
                for index in known:
                    if _is_ours(index, self._prefix) and index != self._index:
                        self._client.indices.delete(index=index, ignore_unavailable=True)
        except SearchUnavailable as error:
            logger.warning("Replaced indexes stay behind: %s", error.detail)


class _TimeBounds:
    """The earliest and latest time of an index, known for a while.

    They only choose how fine a histogram is counted, so they may be a little old.
    """

    def __init__(self) -> None:
        self._known: tuple[float, tuple[int, int]] | None = None

    def recall(self) -> tuple[int, int] | None:
        known = self._known
        return known[1] if known and time.monotonic() < known[0] else None

    def remember(self, bounds: tuple[int, int]) -> None:
        self._known = (time.monotonic() + TRUST_SECONDS, bounds)

    def forget(self) -> None:
        self._known = None


class ElasticsearchView:
    """Reads the index as it is at each request; pinned, as it was when the view was opened.

    Opening and closing a point in time are requests of their own, which a search does without.
    """

    def __init__(
        self,
        client: Elasticsearch,
        index: str,
        *,
        request_seconds: float,
        bounds: _TimeBounds,
        is_pinned: bool = False,
    ) -> None:
        self._client = client
        self._request_seconds = request_seconds
        self._bounds = bounds
        self._index: dict[str, Any] = {"index": index}
        self._point: dict[str, Any] = {}
        if is_pinned:
            with translated():
                point = client.options(request_timeout=request_seconds).open_point_in_time(
                    index=index, keep_alive=KEEP_ALIVE, allow_partial_search_results=False
                )
            self._index = {}
            self._point = {"pit": {"id": point["id"], "keep_alive": KEEP_ALIVE}}

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
        page: dict[str, Any] = {"size": size, "track_total_hits": True}
        if after is not None:
            page["search_after"] = [after.value, after.tie]
        if interval_us is not None:
            page["aggs"] = _compile_counts(interval_us)
        plan, answer = _choose_answer(self._ask_in_turn(plans, page, order, deadline))
        hits = [_read_hit(hit, order) for hit in answer["hits"]["hits"]]
        summary = None if interval_us is None else _read_counts(answer, interval_us)
        deadline.check()
        return Found(plan, _count_hits(answer), hits, summary)

    def _ask_in_turn(
        self, plans: Sequence[Plan], page: dict[str, Any], order: Order, deadline: Deadline
    ) -> Iterator[tuple[Plan, Mapping[str, Any]]]:
        is_choice = len(plans) > 1
        for start in range(0, len(plans), _STAGES_AT_ONCE):
            asked = plans[start : start + _STAGES_AT_ONCE]
            searches = [page | _compile_search(plan, order) for plan in asked]
            for plan, search in zip(asked, searches, strict=True):
                if is_choice and plan.may_lack_words:
                    whole = {_WHOLE: {"filter": compile_all_words(plan)}}
                    search["aggs"] = page.get("aggs", {}) | whole
            yield from zip(asked, self._search_all(searches, deadline), strict=True)

    def scan(self, plan: Plan, *, order: Order, batch: int = 1_000) -> Iterator[EngineHit]:
        search = {"size": batch, "track_total_hits": False} | _compile_search(plan, order)
        while True:
            found = self._search(seconds=ADMIN_SECONDS, **search)["hits"]["hits"]
            yield from (_read_hit(hit, order) for hit in found)
            if len(found) < batch:
                return
            search["search_after"] = found[-1]["sort"]

    def read_time_bounds(self, *, deadline: Deadline = NO_DEADLINE) -> tuple[int, int] | None:
        if (known := self._bounds.recall()) is not None:
            return known
        answer = self._search(
            seconds=deadline.limit(self._request_seconds),
            size=0,
            aggs={name: {name: {"field": "at_us"}} for name in ("min", "max")},
        )
        ends = [answer["aggregations"][name]["value"] for name in ("min", "max")]
        if None in ends:
            return None
        if max(map(abs, ends)) >= _EXACT_DOUBLE:
            ends = [self._read_end(direction, deadline) for direction in ("asc", "desc")]
        bounds = (int(ends[0]), int(ends[1]))
        self._bounds.remember(bounds)
        return bounds

    def find_present(self, document_ids: Iterable[str]) -> set[str]:
        wanted = list(document_ids)
        present: set[str] = set()
        for start in range(0, len(wanted), _MAX_IDS):
            part = wanted[start : start + _MAX_IDS]
            answer = self._search(
                query={"ids": {"values": part}}, size=len(part), source=False, sort=["_doc"]
            )
            present.update(hit["_id"] for hit in answer["hits"]["hits"])
        return present

    def read_shown(self, document_ids: Iterable[str]) -> dict[str, bytes]:
        wanted = list(document_ids)
        shown: dict[str, bytes] = {}
        for start in range(0, len(wanted), _MAX_WHOLE):
            part = wanted[start : start + _MAX_WHOLE]
            answer = self._search(query={"ids": {"values": part}}, size=len(part), sort=["_doc"])
            for hit in answer["hits"]["hits"]:
                shown[hit["_id"]] = hit["_source"]["shown"].encode()
        return shown

    def count(self) -> int:
        answer = self._search(size=0, track_total_hits=True)
        return int(answer["hits"]["total"]["value"])

    def close(self) -> None:
        if self._point:
            with suppress(SearchUnavailable), translated():
                client = self._client.options(request_timeout=self._request_seconds)
                client.close_point_in_time(id=self._point["pit"]["id"])

    def _read_end(self, direction: str, deadline: Deadline) -> int:
        seconds = deadline.limit(self._request_seconds)
        answer = self._search(seconds=seconds, size=1, sort=[{"at_us": direction}], source=False)
        return int(answer["hits"]["hits"][0]["sort"][0])

    def _search(self, *, seconds: float | None = None, **search: Any) -> Mapping[str, Any]:
        """One search, answered by all shards in time or not at all."""
        seconds = seconds or self._request_seconds
        with translated():
            answer = self._client.options(request_timeout=seconds + GRACE_SECONDS).search(
                **self._index,
                **self._point,
                allow_partial_search_results=False,
                timeout=_count_milliseconds(seconds),
                **search,
            )
        return _check_answer(answer.body)

    def _search_all(
        self, searches: Iterable[dict[str, Any]], deadline: Deadline
    ) -> Iterator[Mapping[str, Any]]:
        """Several searches in one request; the same holds of each."""
        deadline.check()
        seconds = deadline.remaining_seconds
        header = {**self._index, "allow_partial_search_results": False}
        timeout = {"timeout": _count_milliseconds(seconds)}
        asked: list[dict[str, Any]] = []
        for search in searches:
            asked += [header, {**search, **self._point, **timeout}]
        with translated():
            answer = self._client.options(request_timeout=seconds + GRACE_SECONDS).msearch(
                searches=asked
            )
        return map(_check_answer, answer["responses"])


def _count_milliseconds(seconds: float) -> str:
    return f"{max(round(seconds * 1000), 1)}ms"


def _check_answer(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" in answer:
        raise describe_failed_search(answer["error"], answer["status"])
    if answer["timed_out"]:
        raise SearchTimeout("Elasticsearch stopped a search that took too long.")
    _check_shards(answer["_shards"])
    return answer


def _choose_answer(
    answers: Iterable[tuple[Plan, Mapping[str, Any]]],
) -> tuple[Plan, Mapping[str, Any]]:
    enough = None
    for plan, answer in answers:
        if _count_hits(answer) < plan.enough_hits:
            continue
        if _has_whole_hit(answer):
            return plan, answer
        enough = enough or (plan, answer)
    return enough or (plan, answer)


def _count_hits(answer: Mapping[str, Any]) -> int:
    return int(answer["hits"]["total"]["value"])


def _has_whole_hit(answer: Mapping[str, Any]) -> bool:
    """Whether one of the hits meets all words; all of them do where that was not asked."""
    counted = answer.get("aggregations", {}).get(_WHOLE)
    return counted is None or counted["doc_count"] > 0


def _compile_search(plan: Plan, order: Order) -> dict[str, Any]:
    if order is Order.BEST:
        query = compile_scored(plan)
    else:
        query = {"constant_score": {"filter": compile_plan(plan)}}
    return {"query": query, "sort": compile_sort(order)}


def _compile_counts(interval_us: int) -> dict[str, Any]:
    return {
        **{name: {"terms": {"field": name, "size": _MAX_FACET_VALUES}} for name in FACETS},
        "histogram": {"histogram": {"field": "at_us", "interval": interval_us, "min_doc_count": 1}},
    }


def _read_counts(answer: Mapping[str, Any], interval_us: int) -> Summary:
    counted = answer["aggregations"]
    return Summary(
        facets={
            name: {bucket["key"]: bucket["doc_count"] for bucket in counted[name]["buckets"]}
            for name in FACETS
        },
        histogram={
            int(bucket["key"]): bucket["doc_count"] for bucket in counted["histogram"]["buckets"]
        },
        interval_us=interval_us,
    )


def _read_hit(hit: Mapping[str, Any], order: Order) -> EngineHit:
    value, tie = int(hit["sort"][0]), int(hit["sort"][1])
    return EngineHit(
        value=value,
        tie=tie,
        score_units=value if order is Order.BEST else None,
        # Not orjson, which turns large integers into floats.
        shown=json.loads(hit["_source"]["shown"]),
    )

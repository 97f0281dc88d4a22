"""The engine for servers: an Elasticsearch 9.

An index is named `<prefix>-<layout>-<n>`; the alias `<prefix>-<layout>` points to the one that
answers. `<layout>` is a hash of mapping and document version, so that a changed layout starts
afresh and processes of two versions do not write into one index. See docs/decisions/0058 to 0061.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError

from search.cursor import Position
from search.documents import DOCUMENT_VERSION, Document, read_mapping
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
from search.engines.elasticsearch_bulk import write_batch
from search.engines.elasticsearch_errors import (
    changed_by_hand,
    read_only,
    translated,
)
from search.engines.elasticsearch_plan import compile_plan, compile_scored, compile_sort
from search.errors import SearchPartial, SearchTimeout, SearchUnavailable
from search.plan import Plan

logger = logging.getLogger(__name__)

MAPPING = read_mapping()
LAYOUT = hashlib.blake2s(
    json.dumps([MAPPING, DOCUMENT_VERSION], sort_keys=True).encode(), digest_size=5
).hexdigest()

ADMIN_SECONDS = 30.0
# A view that is forgotten holds old files of the index for so long.
KEEP_ALIVE = "1m"
# How long to trust that mapping and alias are ours without looking again.
TRUST_SECONDS = 5.0
# The client gives the server a little longer than the server gives itself.
GRACE_SECONDS = 0.1
_MAX_FACET_VALUES = 10_000
_MAX_IDS = 5_000
# Aggregations count in doubles.
_EXACT_DOUBLE = 2**53


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
        self._alias = f"{prefix}-{LAYOUT}"
        self._index_settings = dict(index_settings)
        self._open_seconds = open_seconds
        self._closing_seconds = closing_seconds
        self._lock = threading.Lock()
        self._made: tuple[int, Elasticsearch] | None = None
        self._trusted_until = 0.0

    @property
    def _client(self) -> Elasticsearch:
        # Connections must not be shared over a fork: each process makes its own at its first use.
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                with translated():
                    self._made = (os.getpid(), Elasticsearch(**self._options))
            return self._made[1]

    def open(self) -> ElasticsearchView:
        if time.monotonic() > self._trusted_until:
            self._inspect()
        client = self._client
        with translated():
            answer = client.options(request_timeout=self._open_seconds).open_point_in_time(
                index=self._alias, keep_alive=KEEP_ALIVE, allow_partial_search_results=False
            )
        return ElasticsearchView(client, answer["id"], request_seconds=self._open_seconds)

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        if time.monotonic() > self._trusted_until:
            self._inspect()
        rejected = write_batch(self._client, self._alias, upserts=upserts, deletes=deletes)
        if rejected:
            # A wrong mapping refuses every document: that is not the documents' fault.
            self._inspect()
        _refresh(self._client, self._alias)
        return Applied(rejected=rejected)

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
            rebuild.discard()
            self._trusted_until = 0.0

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
        return Status(ok=True, detail=", ".join([f"{count} documents", *_list_strangers(facts)]))

    def _inspect(self) -> tuple[str, dict[str, Any]]:
        """The index behind the alias. Raises IndexMissing, or SearchUnavailable if it is not ours.

        Somebody's hand may have been there: answers of an index with another mapping are wrong.
        """
        self._trusted_until = 0.0
        client = self._client.options(request_timeout=max(self._open_seconds, 1.0))
        with translated():
            found = client.indices.get(index=self._alias, flat_settings=True)
        if len(found) != 1:
            raise changed_by_hand(f"{self._alias} points to several: {', '.join(found)}.")
        ((index, facts),) = found.items()
        problems = list(_list_problems(facts))
        if index == self._alias:
            problems.append("an index stands where the alias should be")
        if problems:
            raise changed_by_hand(f"{index}: {', '.join(problems)}.")
        self._trusted_until = time.monotonic() + TRUST_SECONDS
        return index, facts


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
        self._index = f"{alias}-{time.time_ns() // 1_000_000}"
        self._filling = f"{self._index}-filling"
        self._settings = dict(settings)
        self._closing_seconds = closing_seconds
        self._published = False
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
            self.discard()
            raise SearchUnavailable(f"No node takes the shards of {self._index}.")

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied:
        return Applied(write_batch(self._client, self._filling, upserts=upserts, deletes=deletes))

    def count(self) -> int:
        _refresh(self._client, self._index)
        with translated():
            answer = self._client.count(index=self._index)
        _check_shards(answer["_shards"])
        return int(answer["count"])

    def publish(self) -> None:
        """Atomic: the alias is moved. Replaced indexes are removed a moment later."""
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
            answering = self._list_answering()
            self._client.indices.update_aliases(actions=list(self._list_moves(answering)))
        self._published = True
        self._remove_replaced(answering)

    def discard(self) -> None:
        if self._published:
            return
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

    def _remove_replaced(self, answering: list[str]) -> None:
        """Removes older indexes of this layout, which includes what killed rebuilds left behind.

        Those of other layouts go only when this one had an index before: while a new version is
        rolled out, processes of the old one still answer from theirs.
        """
        layout = "[0-9a-f]{10}" if answering else LAYOUT
        ours = re.compile(rf"{re.escape(self._prefix)}-{layout}-\d+")
        if answering:
            time.sleep(self._closing_seconds)
        try:
            with translated():
                known = self._client.indices.get(index=f"{self._prefix}-*", features="aliases")
                for index in known:
                    if ours.fullmatch(index) and index != self._index:
                        self._client.indices.delete(index=index, ignore_unavailable=True)
        except SearchUnavailable as error:
            logger.warning("Replaced indexes stay behind: %s", error.detail)


class ElasticsearchView:
    """A point in time: no refresh, write or rebuild changes what it answers."""

    def __init__(self, client: Elasticsearch, point: str, *, request_seconds: float) -> None:
        self._client = client
        self._point = {"id": point, "keep_alive": KEEP_ALIVE}
        self._request_seconds = request_seconds

    def find(
        self, plan: Plan, *, order: Order, size: int, after: Position | None, deadline: Deadline
    ) -> Found:
        is_best = order is Order.BEST
        answer = self._search(
            deadline,
            query=compile_scored(plan) if is_best else _unscored(plan),
            sort=compile_sort(order),
            size=size,
            track_total_hits=True,
            **({"search_after": [after.value, after.tie]} if after else {}),
        )
        hits = [_read_hit(hit, is_scored=is_best) for hit in answer["hits"]["hits"]]
        total = int(answer["hits"]["total"]["value"])
        ties = tuple(hit.tie for hit in hits) if len(hits) == total else None
        return Found(total=total, hits=hits, all_ties=ties)

    def read_time_bounds(self) -> tuple[int, int] | None:
        answer = self._search(
            size=0, aggs={name: {name: {"field": "at_us"}} for name in ("min", "max")}
        )
        ends = [answer["aggregations"][name]["value"] for name in ("min", "max")]
        if None in ends:
            return None
        if max(map(abs, ends)) >= _EXACT_DOUBLE:
            ends = [self._read_end(direction) for direction in ("asc", "desc")]
        return int(ends[0]), int(ends[1])

    def summarise(
        self, plan: Plan, found: Found, *, interval_us: int, deadline: Deadline
    ) -> Summary:
        aggregations: dict[str, Any] = {
            name: {"terms": {"field": name, "size": _MAX_FACET_VALUES}} for name in FACETS
        }
        aggregations["histogram"] = {
            "histogram": {"field": "at_us", "interval": interval_us, "min_doc_count": 1}
        }
        # Few hits are found again by their ties, which is cheaper than by the typos of a query.
        ties = found.all_ties
        query = _unscored(plan) if ties is None else {"terms": {"tie": list(ties)}}
        answer = self._search(deadline, size=0, query=query, aggs=aggregations)
        counted = answer["aggregations"]
        return Summary(
            facets={
                name: {bucket["key"]: bucket["doc_count"] for bucket in counted[name]["buckets"]}
                for name in FACETS
            },
            histogram={
                int(bucket["key"]): bucket["doc_count"]
                for bucket in counted["histogram"]["buckets"]
            },
        )

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

    def count(self) -> int:
        answer = self._search(size=0, track_total_hits=True)
        return int(answer["hits"]["total"]["value"])

    def close(self) -> None:
        with suppress(SearchUnavailable), translated():
            client = self._client.options(request_timeout=self._request_seconds)
            client.close_point_in_time(id=self._point["id"])

    def _read_end(self, direction: str) -> int:
        answer = self._search(size=1, sort=[{"at_us": direction}], source=False)
        return int(answer["hits"]["hits"][0]["sort"][0])

    def _search(self, deadline: Deadline | None = None, **body: Any) -> Mapping[str, Any]:
        """One request, answered by all shards in time or not at all."""
        seconds = self._request_seconds
        if deadline is not None:
            deadline.check()
            seconds = deadline.remaining_seconds
        with translated():
            answer = self._client.options(request_timeout=seconds + GRACE_SECONDS).search(
                pit=self._point,
                allow_partial_search_results=False,
                timeout=f"{max(round(seconds * 1000), 1)}ms",
                **body,
            )
        if answer["timed_out"]:
            raise SearchTimeout(f"Elasticsearch stopped the search after {seconds:.2f} s.")
        _check_shards(answer["_shards"])
        if deadline is not None:
            deadline.check()
        return answer.body  # type: ignore[no-any-return]


def _unscored(plan: Plan) -> dict[str, Any]:
    return {"constant_score": {"filter": compile_plan(plan)}}


def _read_hit(hit: Mapping[str, Any], *, is_scored: bool) -> EngineHit:
    value, tie = int(hit["sort"][0]), int(hit["sort"][1])
    return EngineHit(
        value=value,
        tie=tie,
        score_units=value if is_scored else None,
        # Not orjson, which turns large integers into floats.
        shown=json.loads(hit["_source"]["shown"]),
    )

"""Bulk writing, with an eye on every item.

What is sent is idempotent, so that a batch that failed half-way may be given again. Documents are
built while the server works on those before them: at most a few requests are in memory at a time.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from elasticsearch import ApiError, Elasticsearch

from search.documents import Document, list_fields
from search.engines.elasticsearch_errors import (
    MAX_DETAIL_CHARS,
    describe_failure,
    translated,
)
from search.errors import SearchUnavailable

# A request may have 100 MB; a few of these fit into the memory that a server keeps for indexing.
MAX_REQUEST_BYTES = 8_000_000
# A server works on several requests at once.
MAX_REQUEST_ITEMS = 500
SENDERS = 4
REQUEST_SECONDS = 60.0
# How long the server waits for a shard that is away. Its default is a minute; we try again anyway.
SHARD_WAIT = "1s"
# A shard that is away for longer is no matter of the moment: the outbox keeps the batch.
SHARD_PATIENCE_SECONDS = 2.0
BUSY_WAITS_SECONDS = (0.1, 0.3, 1.0, 3.0)

_BAD_REQUEST, _TOO_LARGE, _BUSY, _UNAVAILABLE = 400, 413, 429, 503


@dataclass(frozen=True, slots=True)
class _Item:
    document_id: str
    lines: bytes


def write_batch(
    client: Elasticsearch,
    alias: str,
    *,
    upserts: Iterable[Document],
    deletes: Iterable[str],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Writes through `alias`; gives {document id: reason} of what the server refuses for good.

    Raises SearchUnavailable when it cannot take the batch now. Nothing is searchable before the
    next refresh.
    """
    rejected: dict[str, str] = {}
    on_their_way: deque[Future[dict[str, str]]] = deque()
    with ThreadPoolExecutor(max_workers=SENDERS) as senders:
        try:
            for chunk in _cut(_prepare(upserts, deletes, rejected)):
                if chunk:
                    sending = _submit(senders, client, alias, chunk, sleep)
                    on_their_way.append(sending)
                # One more than there are senders, so that none waits for the next chunk.
                while len(on_their_way) > (SENDERS if chunk else 0):
                    rejected |= on_their_way.popleft().result()
            while on_their_way:
                rejected |= on_their_way.popleft().result()
        finally:
            for sending in on_their_way:
                sending.cancel()
    return rejected


def _submit(
    senders: ThreadPoolExecutor,
    client: Elasticsearch,
    alias: str,
    chunk: list[_Item],
    sleep: Callable[[float], None],
) -> Future[dict[str, str]]:
    try:
        return senders.submit(_send_patiently, client, alias, chunk, sleep)
    except RuntimeError as error:
        # The machine has no thread left: that is not the documents' fault.
        raise SearchUnavailable(f"No request can be sent: {error}") from error


def _prepare(
    upserts: Iterable[Document], deletes: Iterable[str], rejected: dict[str, str]
) -> Iterator[_Item | None]:
    """What to send, in order. None where everything before must have arrived first."""
    given: set[str] = set()
    for document in upserts:
        try:
            item = _Item(document.id, _write_lines(document))
        except Exception as error:
            rejected[document.id] = str(error) or type(error).__name__
            continue
        if document.id in given:  # given twice: the last one counts
            yield None
        given.add(document.id)
        yield item
    for document_id in deletes:
        if document_id in given:
            yield None
        yield _Item(document_id, _write_action("delete", document_id))


def _write_lines(document: Document) -> bytes:
    return _write_action("index", document.id) + orjson.dumps(list_fields(document)) + b"\n"


def _write_action(name: str, document_id: str) -> bytes:
    return json.dumps({name: {"_id": document_id}}).encode() + b"\n"


def _cut(items: Iterable[_Item | None]) -> Iterator[list[_Item]]:
    """Chunks for a request each; an empty one where all before it must have arrived."""
    chunk: list[_Item] = []
    size = 0
    for item in items:
        is_full = len(chunk) == MAX_REQUEST_ITEMS or (
            item is not None and size + len(item.lines) > MAX_REQUEST_BYTES
        )
        if chunk and (is_full or item is None):
            yield chunk
            chunk, size = [], 0
        if item is None:
            yield []
        else:
            chunk.append(item)
            size += len(item.lines)
    if chunk:
        yield chunk


def _send_patiently(
    client: Elasticsearch, alias: str, items: list[_Item], sleep: Callable[[float], None]
) -> dict[str, str]:
    """Sends what a busy server turned down again, and only that."""
    rejected: dict[str, str] = {}
    last_try_for_shards = time.monotonic() + SHARD_PATIENCE_SECONDS
    for wait_seconds in (*BUSY_WAITS_SECONDS, None):
        busy: list[_Item] = []
        for item, error, status in _send(client, alias, items):
            if _is_about_the_moment(error, status):
                if status == _UNAVAILABLE and time.monotonic() > last_try_for_shards:
                    raise describe_failure(error, status)
                busy.append(item)
                trouble = describe_failure(error, status)
            elif _is_about_the_document(error, status):
                rejected[item.document_id] = f"{error['type']}: {error['reason']}"
            else:
                raise describe_failure(error, status)
        if not busy:
            return rejected
        if wait_seconds is not None:
            sleep(wait_seconds)
        items = busy
    raise trouble


def _is_about_the_moment(error: dict[str, Any], status: int) -> bool:
    # Not every 429: that of a full disk lasts.
    return status == _UNAVAILABLE or (
        status == _BUSY and error["type"] == "es_rejected_execution_exception"
    )


def _is_about_the_document(error: dict[str, Any], status: int) -> bool:
    # A strict mapping refuses a field of ours only when the mapping is not ours.
    return status in (_BAD_REQUEST, _TOO_LARGE) and error["type"] not in (
        "strict_dynamic_mapping_exception",
        "index_closed_exception",
    )


def _send(
    client: Elasticsearch, alias: str, items: list[_Item]
) -> Iterator[tuple[_Item, dict[str, Any], int]]:
    """The items that failed, each with the server's error and status."""
    # The client takes bytes as they are, but its types do not say so.
    operations: list[Any] = [item.lines.removesuffix(b"\n") for item in items]
    try:
        with translated(but=_TOO_LARGE):
            # An index that somebody deleted must not come back with a mapping that is guessed.
            answer = client.options(request_timeout=REQUEST_SECONDS).bulk(
                index=alias,
                operations=operations,
                require_alias=True,
                timeout=SHARD_WAIT,
                filter_path=["errors", "items.*.status", "items.*.error"],
            )
    except ApiError as error:
        # A server, or a proxy before it, takes less at once than we send.
        if len(items) == 1:
            facts = {"type": "request_too_large", "reason": str(error)[:MAX_DETAIL_CHARS]}
            yield items[0], facts, _TOO_LARGE
            return
        yield from _send(client, alias, items[: len(items) // 2])
        yield from _send(client, alias, items[len(items) // 2 :])
        return
    if not answer["errors"]:
        return
    for item, outcome in zip(items, answer["items"], strict=True):
        (told,) = outcome.values()
        if "error" in told:
            yield item, told["error"], told["status"]

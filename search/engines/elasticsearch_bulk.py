"""Bulk writing, with an eye on every item.

A batch is all or nothing as far as its source goes: nothing is sent before the last document was
read. What is sent is idempotent, so that a batch that failed half-way may be given again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from elasticsearch import Elasticsearch

from search.documents import Document, list_fields
from search.engines.elasticsearch_errors import describe_failure, translated

# A request may have 100 MB; a few of these fit into the memory that a server keeps for indexing.
MAX_REQUEST_BYTES = 8_000_000
# A server works on several requests at once. Measured with client and server on two shared cores: a
# tenth more documents a second than one request for the whole batch.
MAX_REQUEST_ITEMS = 500
SENDERS = 4
REQUEST_SECONDS = 60.0
# How long the server waits for a shard that is away. Its default is a minute.
SHARD_WAIT = "5s"
BUSY_WAITS_SECONDS = (0.1, 0.3, 1.0, 3.0)

_BUSY, _BAD_REQUEST, _TOO_LARGE = 429, 400, 413


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
    items: dict[str, _Item] = {}
    rejected: dict[str, str] = {}
    for document in upserts:
        items.pop(document.id, None)  # given twice: the last one counts
        try:
            items[document.id] = _Item(document.id, _write_lines(document))
        except (ValueError, orjson.JSONEncodeError) as error:
            rejected[document.id] = str(error)
    for document_id in deletes:
        items[document_id] = _Item(document_id, _write_action("delete", document_id))
    chunks = list(_cut(items.values()))
    with ThreadPoolExecutor(max_workers=max(min(len(chunks), SENDERS), 1)) as senders:
        # Each id is in one chunk only, so that their order does not matter.
        for refused in senders.map(lambda c: _send_patiently(client, alias, c, sleep), chunks):
            rejected |= refused
    return rejected


def _write_lines(document: Document) -> bytes:
    return _write_action("index", document.id) + orjson.dumps(list_fields(document)) + b"\n"


def _write_action(name: str, document_id: str) -> bytes:
    return json.dumps({name: {"_id": document_id}}).encode() + b"\n"


def _cut(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    size = 0
    for item in items:
        is_full = len(chunk) == MAX_REQUEST_ITEMS or size + len(item.lines) > MAX_REQUEST_BYTES
        if chunk and is_full:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item.lines)
    if chunk:
        yield chunk


def _send_patiently(
    client: Elasticsearch, alias: str, items: list[_Item], sleep: Callable[[float], None]
) -> dict[str, str]:
    """Sends what a busy server turned down again, and only that."""
    rejected: dict[str, str] = {}
    for wait_seconds in (*BUSY_WAITS_SECONDS, None):
        busy: list[_Item] = []
        for item, error, status in _send(client, alias, items):
            if status == _BUSY and error["type"] == "es_rejected_execution_exception":
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
    with translated():
        # An index that somebody deleted must not come back with a mapping that is guessed.
        answer = client.options(request_timeout=REQUEST_SECONDS).bulk(
            index=alias,
            operations=operations,
            require_alias=True,
            timeout=SHARD_WAIT,
            filter_path=["errors", "items.*.status", "items.*.error"],
        )
    if not answer["errors"]:
        return
    for item, outcome in zip(items, answer["items"], strict=True):
        (told,) = outcome.values()
        if "error" in told:
            yield item, told["error"], told["status"]

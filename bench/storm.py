"""A storm: every row of a table changes at once, and the drainer moves all of it into the index.

The rows are read from the database, made into documents, indexed, refreshed and taken off the
outbox. The peer reads the same rows, makes the same documents and gives them to
`elasticsearch.helpers.parallel_bulk`, with one refresh at the end and no outbox. Memory is what the
process has of its own (without pages of files) beyond what it had before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from bench import own_portal

# isort: split
from django.conf import settings
from django.utils import timezone
from elasticsearch import Elasticsearch, helpers

from bench.cities import read_cities
from bench.contestants.gleaner import describe_source
from bench.servers import Missing, try_elasticsearch
from bench.table import NOT_MEASURED, Options, Row, compare, median, run_benchmark, say, show_number
from ingest import services
from ingest.models import Outbox, Record
from search import indexer
from search.documents import list_fields, read_documents
from search.engines.elasticsearch import MAPPING
from search.query import Kind

PEER = "parallel_bulk"
ROWS_AT_ONCE = 2_000


class MemoryPeak:
    """How much anonymous memory this process takes at most while the block runs, in MiB (Linux)."""

    def __enter__(self) -> Self:
        self._before = _read_memory()
        self.mib = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            self.mib = max(self.mib, _read_memory() - self._before)


def _read_memory() -> float:
    return own_portal.read_memory(os.getpid())["RssAnon"]


def measure(options: Options) -> list[Row]:
    count = options.choose(quick=5_000, normal=100_000)
    repeats = options.choose(quick=1, normal=3)
    own_portal.migrate()
    store_cities(count)
    embedded = [drain(count) for _ in range(repeats + 1)][1:]
    rows = [
        Row(
            f"storm of {count:,} changes: tantivy",
            f"{show_number(median(rate for rate, _ in embedded))} /s, "
            f"{max(memory for _, memory in embedded):.0f} MiB more",
        )
    ]
    with try_elasticsearch() as url:
        if isinstance(url, Missing):
            return [*rows, Row("storm: Elasticsearch", "", str(url), verdict=NOT_MEASURED)]
        settings.ELASTICSEARCH_URL = url
        settings.ELASTICSEARCH_DSL = {"default": {"hosts": [url]}}
        ours, peer, memory = [], [], 0.0
        for repeat in range(repeats + 1):  # the first is for the server to get warm
            say(f"  repeat {repeat} of {repeats} …")
            rate, used = drain(count)
            theirs = count / write_peer(url, count)
            if repeat:
                ours.append(rate)
                peer.append(theirs)
                memory = max(memory, used)
    return [
        *rows,
        compare(
            f"storm of {count:,} changes: Elasticsearch, {memory:.0f} MiB more",
            ours=median(ours),
            peer=median(peer),
            unit="/s",
            peer_name=PEER,
            at_least=0.9,
        ),
    ]


def store_cities(count: int) -> None:
    user = own_portal.make_user()
    data = describe_source("cities", "http://127.0.0.1:1", 1)
    source = services.create_source(owner=user, data=data)
    now = timezone.now()
    rows = (
        Record(
            source=source, key=str(number), title=city.name, body=city.body, data=city.data,
            weight=city.population, occurred_at=now, content_hash="", stored_at=now, updated_at=now,
        )
        for number, city in enumerate(read_cities(count))
    )  # fmt: skip
    Record.objects.bulk_create(rows, batch_size=500)


def drain(count: int) -> tuple[float, float]:
    """Changes a second, and the MiB that it took."""
    indexer.ensure_index()
    indexer.queue_everything()
    assert Outbox.objects.count() == count
    with MemoryPeak() as memory:
        began = time.perf_counter()
        indexer.drain_everything()
        took = time.perf_counter() - began
    assert not Outbox.objects.exists()
    return count / took, memory.mib


def write_peer(url: str, count: int) -> float:
    client = Elasticsearch(url, request_timeout=60)
    index = {**settings.ELASTICSEARCH_INDEX_SETTINGS}
    client.indices.create(index="peer", mappings=MAPPING, settings=index)
    began = time.perf_counter()
    for ok, item in helpers.parallel_bulk(client, _list_actions(), index="peer"):
        assert ok, item
    client.indices.refresh(index="peer")
    took = time.perf_counter() - began
    assert client.count(index="peer")["count"] == count
    client.indices.delete(index="peer")
    return took


def _list_actions() -> Iterator[dict[str, Any]]:
    pks = list(Record.objects.order_by("pk").values_list("pk", flat=True))
    for start in range(0, len(pks), ROWS_AT_ONCE):
        for document in read_documents(Kind.RECORD, pks[start : start + ROWS_AT_ONCE]):
            yield {"_id": document.id, "_source": list_fields(document)}


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""Bulk indexing into Elasticsearch: our writer beside `elasticsearch.helpers.parallel_bulk`.

The same documents of the same cities under the same mapping into a fresh index each, both ending
in a refresh; parallel_bulk as it comes (four threads, chunks of 500). The embedded engine is beside
it, and our writer as the drainer uses it: batches of 2,000, each searchable before the next.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from elasticsearch import Elasticsearch, helpers

from bench import own_portal  # noqa: F401 - sets Django up

# isort: split
from bench.cities import build_documents, read_cities
from bench.servers import Missing, try_elasticsearch
from bench.table import (
    NOT_MEASURED,
    Options,
    Row,
    compare,
    median,
    run_benchmark,
    say,
    show_spread,
)
from portal.config import read_index_settings
from search.documents import Document, list_fields
from search.engines.elasticsearch import MAPPING, ElasticsearchEngine
from search.engines.tantivy import TantivyEngine
from search.indexer import BATCH_ROWS

PEER = "parallel_bulk"


def measure(options: Options) -> list[Row]:
    count = options.choose(quick=5_000, normal=40_000, long=100_000)
    repeats = options.choose(quick=1, normal=5)
    documents = list(build_documents(read_cities(count)))
    with try_elasticsearch() as url, tempfile.TemporaryDirectory() as folder:
        if isinstance(url, Missing):
            return [Row("bulk indexing", "", str(url), verdict=NOT_MEASURED)]
        writers = _list_writers(url, Path(folder))
        rates = defaultdict(list)
        for repeat in range(repeats + 1):  # the first is for the server to get warm
            say(f"  repeat {repeat} of {repeats} …")
            for name, write in writers.items():
                seconds = write(documents)
                if repeat:
                    rates[name].append(count / seconds)
    return list(_judge(rates, count))


def _judge(rates: dict[str, list[float]], count: int) -> Iterator[Row]:
    for name in rates:
        if name != PEER:
            yield compare(
                f"bulk indexing, {count:,} documents: {name}",
                ours=median(rates[name]),
                peer=median(rates[PEER]),
                unit="/s",
                peer_name=PEER,
                at_least=0.9 if name == "rebuild" else None,
                ours_spread=show_spread(rates[name]),
                peer_spread=show_spread(rates[PEER]),
            )


Writer = Callable[[Sequence[Document]], float]


def _list_writers(url: str, folder: Path) -> dict[str, Writer]:
    client = Elasticsearch(url, request_timeout=60)
    engine = ElasticsearchEngine(
        {"hosts": [url]},
        prefix="bulk",
        index_settings=read_index_settings(),
        open_seconds=10,
        closing_seconds=0,
    )
    embedded = TantivyEngine(folder)

    def write_rebuild(documents: Sequence[Document]) -> float:
        with engine.start_rebuild() as rebuild:
            began = time.perf_counter()
            rebuild.apply(upserts=iter(documents))
            assert rebuild.open().count() == len(documents)
            return time.perf_counter() - began

    def write_peer(documents: Sequence[Document]) -> float:
        settings = {**read_index_settings(), "number_of_replicas": 0, "refresh_interval": "-1"}
        client.indices.create(index="peer", mappings=MAPPING, settings=settings)
        began = time.perf_counter()
        actions = ({"_id": each.id, "_source": list_fields(each)} for each in documents)
        for ok, item in helpers.parallel_bulk(client, actions, index="peer"):
            assert ok, item
        client.indices.refresh(index="peer")
        assert client.count(index="peer")["count"] == len(documents)
        took = time.perf_counter() - began
        client.indices.delete(index="peer")
        return took

    def write_batches(documents: Sequence[Document]) -> float:
        with engine.start_rebuild() as rebuild:
            rebuild.publish()
        began = time.perf_counter()
        for start in range(0, len(documents), BATCH_ROWS):
            engine.apply(upserts=iter(documents[start : start + BATCH_ROWS]), deletes=())
        return time.perf_counter() - began

    def write_embedded(documents: Sequence[Document]) -> float:
        with embedded.start_rebuild() as rebuild:
            began = time.perf_counter()
            rebuild.apply(upserts=iter(documents))
            rebuild.publish()
            return time.perf_counter() - began

    return {
        "rebuild": write_rebuild,
        PEER: write_peer,
        "drainer's batches": write_batches,
        "tantivy": write_embedded,
    }


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""dlt, 50 at a time: a transformer with deferred calls, into JSON lines.

Of the destinations that need no further package and no network this one costs dlt the least: it is
compared without the time that a database would take.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.race import CONCURRENCY, compete

os.environ |= {  # noqa: TID251 - how dlt is configured
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "EXTRACT__WORKERS": str(CONCURRENCY),
    "EXTRACT__MAX_PARALLEL_ITEMS": str(CONCURRENCY),
}

import dlt
from dlt.sources.helpers.rest_client.client import RESTClient


def run(address: str, size: int, folder: Path) -> int:
    client = RESTClient(base_url=address)

    @dlt.resource
    def numbers() -> Iterator[int]:
        yield from range(1, size + 1)

    @dlt.transformer(data_from=numbers, name="cities", primary_key="id")
    def cities(number: int) -> Any:
        @dlt.defer
        def fetch() -> Any:
            return client.get(f"cities/{number}").json()["data"]

        return fetch()

    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=str(folder / "pipelines"),
        destination=dlt.destinations.filesystem(bucket_url=(folder / "lake").as_uri()),
        dataset_name="bench",
    )
    pipeline.run(cities())
    lines = 0
    for path in (folder / "lake" / "bench" / "cities").glob("*.jsonl*"):
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        lines += len(text.splitlines())
    return lines


if __name__ == "__main__":
    compete(run)

"""What many people write first: ten threads with `requests`, then a DataFrame into SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pandas as pd
import requests  # noqa: TID251 - the contestant's own choice

from bench.race import compete

THREADS = 10
_local = threading.local()


def fetch(url: str) -> dict[str, object]:
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    response = _local.session.get(url, timeout=30)
    response.raise_for_status()
    city: dict[str, object] = response.json()["data"]
    return city | {"alternate_names": json.dumps(city["alternate_names"])}


def run(address: str, size: int, folder: Path) -> int:
    urls = (f"{address}/cities/{number}" for number in range(1, size + 1))
    with ThreadPoolExecutor(THREADS) as pool:
        frame = pd.DataFrame(pool.map(fetch, urls))
    with closing(sqlite3.connect(folder / "cities.sqlite3")) as connection:
        frame.to_sql("cities", connection, index=False)
        (count,) = connection.execute("SELECT count(*) FROM cities").fetchone()
    return int(count)


if __name__ == "__main__":
    compete(run)

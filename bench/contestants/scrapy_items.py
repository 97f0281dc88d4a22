"""Scrapy, 50 at a time on uvloop, items into SQLite by a pipeline that commits every 500 items."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess

from bench.race import CONCURRENCY, compete

BATCH = 500


class StoreInSqlite:
    """The item pipeline."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path)
        self.connection.execute("CREATE TABLE cities (id PRIMARY KEY, name, data)")
        self.rows: list[tuple[Any, ...]] = []

    @classmethod
    def from_crawler(cls, crawler: Any) -> StoreInSqlite:
        return cls(crawler.settings["SQLITE_PATH"])

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        self.rows.append((item["id"], item["name"], json.dumps(item, ensure_ascii=False)))
        if len(self.rows) >= BATCH:
            self.flush()
        return item

    def flush(self) -> None:
        self.connection.executemany("INSERT OR REPLACE INTO cities VALUES (?, ?, ?)", self.rows)
        self.connection.commit()
        self.rows.clear()

    def close_spider(self) -> None:
        self.flush()
        self.connection.close()


class Cities(scrapy.Spider):
    name = "cities"

    def __init__(self, address: str, size: int, **more: Any) -> None:
        super().__init__(**more)
        self.address = address
        self.size = size

    async def start(self) -> AsyncIterator[Any]:
        for number in range(1, self.size + 1):
            yield scrapy.Request(f"{self.address}/cities/{number}")

    def parse(self, response: Any) -> Iterator[dict[str, Any]]:
        yield json.loads(response.body)["data"]


def run(address: str, size: int, folder: Path) -> int:
    path = folder / "cities.sqlite3"
    process = CrawlerProcess(
        {
            "ITEM_PIPELINES": {StoreInSqlite: 1},
            "SQLITE_PATH": str(path),
            "CONCURRENT_REQUESTS": CONCURRENCY,
            "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
            "DOWNLOAD_DELAY": 0,
            "ROBOTSTXT_OBEY": False,
            "COOKIES_ENABLED": False,
            "TELNETCONSOLE_ENABLED": False,
            "ASYNCIO_EVENT_LOOP": "uvloop.Loop",
            "LOG_LEVEL": "WARNING",
        }
    )
    process.crawl(Cities, address=address, size=size)
    process.start()
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM cities").fetchone()
    return int(count)


if __name__ == "__main__":
    compete(run)

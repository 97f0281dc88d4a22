"""Search engines with one face: a query of the search box in, the folded titles of ten hits out."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg
from elasticsearch import Elasticsearch, helpers
from rapidfuzz import fuzz, process

from bench.cities import City, build_documents, fold
from portal.config import read_index_settings
from search.engines.base import Deadline, Engine
from search.engines.elasticsearch import ElasticsearchEngine
from search.engines.tantivy import TantivyEngine
from search.plan import Visibility
from search.query import SearchQuery, Sort, parse_text
from search.services import find_hits

SIZE = 10
EVERYTHING = Visibility(all_errors=True)
PATIENCE_SECONDS = 30.0


class Searcher(Protocol):
    name: str

    def find(self, typed: str) -> list[str]: ...


def read_query(typed: str) -> SearchQuery:
    return SearchQuery(raw=typed, text=parse_text(typed), sort=Sort.SCORE, size=SIZE)


class Gleaner:
    """Our plan on one of our engines: hits and the exact total, as each search opens its view."""

    def __init__(self, engine: Engine, cities: Sequence[City]) -> None:
        self.name = f"Gleaner on {engine.name}"
        self.engine = engine
        with engine.start_rebuild() as rebuild:
            applied = rebuild.apply(upserts=build_documents(cities))
            assert not applied.rejected, applied.rejected
            assert rebuild.open().count() == len(cities)
            rebuild.publish()

    def find(self, typed: str) -> list[str]:
        with closing(self.engine.open()) as view:
            _, found = find_hits(view, read_query(typed), EVERYTHING, Deadline(PATIENCE_SECONDS))
        return [fold(hit.shown["title"]) for hit in found.hits[:SIZE]]


def make_tantivy(folder: Path, cities: Sequence[City]) -> Gleaner:
    return Gleaner(TantivyEngine(folder), cities)


def make_elasticsearch(url: str, prefix: str, cities: Sequence[City]) -> Gleaner:
    return Gleaner(
        ElasticsearchEngine(
            {"hosts": [url]},
            prefix=prefix,
            index_settings=read_index_settings(),
            open_seconds=PATIENCE_SECONDS,
            closing_seconds=0,
        ),
        cities,
    )


class PlainElasticsearch:
    """What the manual suggests: multi_match with fuzziness AUTO over title^3 and body, BM25.

    It is given folded words, so that accents cost it nothing.
    """

    name = "Elasticsearch multi_match AUTO"

    def __init__(self, url: str, index: str, cities: Sequence[City]) -> None:
        self.client = Elasticsearch(url, request_timeout=PATIENCE_SECONDS)
        self.index = index
        text = {"type": "text", "analyzer": "whitespace"}
        shown = {"type": "keyword", "index": False, "doc_values": False}
        self.client.indices.create(
            index=index,
            mappings={"properties": {"title": text, "body": text, "shown": shown}},
            settings={"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"},
        )
        actions = (
            {
                "_index": index,
                "_id": document.id,
                "title": document.title_words,
                "body": document.body_words,
                "shown": document.shown().decode(),
            }
            for document in build_documents(cities)
        )
        for ok, item in helpers.parallel_bulk(self.client, actions, chunk_size=1_000):
            assert ok, item
        self.client.indices.refresh(index=index)

    def find(self, typed: str) -> list[str]:
        answer = self.client.search(
            index=self.index,
            query={
                "multi_match": {
                    "query": fold(typed),
                    "fields": ["title^3", "body"],
                    "fuzziness": "AUTO",
                }
            },
            size=SIZE,
            track_total_hits=True,
        )
        return [hit["_source"]["title"] for hit in answer["hits"]["hits"]]


class Trigrams:
    """PostgreSQL's pg_trgm with a GIN index, most similar first, then most populous. No total."""

    name = "pg_trgm"

    def __init__(self, connection: psycopg.Connection[Any], cities: Sequence[City]) -> None:
        self.connection = connection
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        connection.execute("DROP TABLE IF EXISTS bench_cities")
        connection.execute("CREATE TABLE bench_cities (name text, population double precision)")
        with connection.cursor().copy("COPY bench_cities FROM STDIN") as copy:
            for city in cities:
                copy.write_row((city.folded, city.population))
        connection.execute("CREATE INDEX ON bench_cities USING gin (name gin_trgm_ops)")
        connection.execute("ANALYZE bench_cities")

    def find(self, typed: str) -> list[str]:
        word = fold(typed)
        rows = self.connection.execute(
            "SELECT name FROM bench_cities WHERE name %% %s"
            " ORDER BY similarity(name, %s) DESC, population DESC LIMIT %s",
            (word, word, SIZE),
        )
        return [name for (name,) in rows]


class SqliteTrigrams:
    """SQLite's FTS5 with its trigram tokenizer: any trigram of the query, by BM25. No total."""

    name = "SQLite FTS5 trigram"

    def __init__(self, cities: Sequence[City]) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("CREATE VIRTUAL TABLE cities USING fts5(name, tokenize='trigram')")
        self.connection.executemany(
            "INSERT INTO cities VALUES (?)", ((city.folded,) for city in cities)
        )

    def find(self, typed: str) -> list[str]:
        word = fold(typed)
        trigrams = {word[at : at + 3] for at in range(len(word) - 2)}
        if not trigrams:
            return []
        rows = self.connection.execute(
            "SELECT name FROM cities WHERE cities MATCH ? ORDER BY rank LIMIT ?",
            (" OR ".join(f'"{trigram}"' for trigram in sorted(trigrams)), SIZE),
        )
        return [name for (name,) in rows]


class EveryName:
    """rapidfuzz against every name. No index, no total."""

    name = "rapidfuzz over all names"

    def __init__(self, cities: Sequence[City]) -> None:
        ordered = sorted(cities, key=lambda city: -city.population)
        self.names = [city.folded for city in ordered]

    def find(self, typed: str) -> list[str]:
        found = process.extract(fold(typed), self.names, scorer=fuzz.ratio, limit=SIZE)
        return [name for name, _, _ in found]

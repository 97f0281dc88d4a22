"""What HTTP adds to a search: `/api/search/` on all cities, beside the engine's own work.

The same query in turns: in this process only what the engine does (open, hits, total, and for a
whole answer facets and histogram), then as a request to the web process of `make up`, signed in by
JWT on a kept connection; five times each, and each request is new to the cache. The medians of both
are compared, for a single search of several milliseconds on several threads varies by as much as is
looked for. What is judged is the 95th percentile of the differences over all questions; that of
single requests stands beside it. A last row asks each question twice in a row, and is of the second
answers, which come out of the cache.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings

from bench import own_portal

# isort: split
from rest_framework_simplejwt.tokens import RefreshToken

from bench.cities import ALL_CITIES, ask, build_documents, read_cities
from bench.searchers import EVERYTHING, PATIENCE_SECONDS
from bench.table import Options, Row, judge, median, quantile, run_benchmark, say
from ingest.changes import Token, renew_token
from search.engines import get_engine
from search.engines.base import Deadline, Engine
from search.query import Parts, read_query
from search.services import find_hits

WARM_UP = 50
TURNS = 5
TARGET_MS = 5.0


def measure(options: Options) -> list[Row]:
    cities = read_cities(options.choose(quick=20_000, normal=ALL_CITIES))
    questions = ask(cities, queries=options.choose(quick=100, normal=400), seed=1)
    own_portal.migrate()
    engine = get_engine()
    say(f"  {len(cities):,} cities: building the index …")
    with engine.start_rebuild() as rebuild:
        rebuild.apply(upserts=build_documents(cities))
        rebuild.publish()
    user: Any = own_portal.make_user()
    token = str(RefreshToken.for_user(user).access_token)
    # As a portal in use has it: answers are kept from the first change of the index on, and who may
    # see what from the first source on.
    renew_token(Token.INDEX)
    renew_token(Token.SOURCES)
    rows: list[Row] = []
    with own_portal.run_programs("redis", "web"):
        own_portal.wait_for("the web process", _is_up)
        client = _Client(token)
        for parts in Parts:
            for question in questions[:WARM_UP]:
                _time(engine, client, question.typed, parts)
            turns = []
            for turn in range(TURNS):
                say(f"  parts={parts}, turn {turn + 1} of {TURNS} …")
                renew_token(Token.INDEX)  # what was kept counts no longer
                turns.append([_time(engine, client, q.typed, parts) for q in questions])
            rows += _describe(turns, f"endpoint, {len(cities):,} cities, parts={parts}")
        kept = [_time_kept(client, question.typed) for question in questions]
    what = f"endpoint, {len(cities):,} cities: a request out of the cache"
    return [*rows, Row(what, f"p50 {quantile(kept, 50):.1f}, p95 {quantile(kept, 95):.1f} ms")]


@dataclass(frozen=True, slots=True)
class Times:
    """In ms: the engine's work, the whole request, and `took_ms` of its answer."""

    engine: float
    whole: float
    service: float


def _describe(turns: list[list[Times]], what: str) -> Iterator[Row]:
    engine = [median(time.engine for time in times) for times in zip(*turns, strict=True)]
    whole = [median(time.whole for time in times) for times in zip(*turns, strict=True)]
    added = [a - b for a, b in zip(whole, engine, strict=True)]
    single = [time for times in turns for time in times]
    p95 = quantile(added, 95)
    yield Row(
        f"{what}: p95 of what HTTP adds to the engine's work",
        f"{p95:.1f} ms (p50 {quantile(added, 50):.1f})",
        f"engine p95 {quantile(engine, 95):.1f} ms",
        None,
        f"≤ {TARGET_MS:g} ms",
        judge(p95, at_most=TARGET_MS),
    )
    yield Row(
        f"{what}: single requests, p95: what HTTP adds; whole; of it outside `took_ms`",
        "; ".join(
            f"{quantile(values, 95):.1f} ms"
            for values in (
                [time.whole - time.engine for time in single],
                [time.whole for time in single],
                [time.whole - time.service for time in single],
            )
        ),
    )


def _is_up() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", settings.GLEANER.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _time(engine: Engine, client: _Client, typed: str, parts: Parts) -> Times:
    query = read_query({"q": [typed]})
    began = time.perf_counter()
    with closing(engine.open()) as view:
        deadline = Deadline(PATIENCE_SECONDS)
        find_hits(view, query, EVERYTHING, deadline, is_counted=parts is Parts.ALL)
    engine_ms = (time.perf_counter() - began) * 1000
    whole_ms, answer = client.ask(typed, parts)
    return Times(engine_ms, whole_ms, json.loads(answer)["took_ms"])


def _time_kept(client: _Client, typed: str) -> float:
    """ms of the second of two requests in a row: others would take its place in the cache."""
    client.ask(typed, Parts.ALL)
    return client.ask(typed, Parts.ALL)[0]


class _Client:
    """As little of a client as there can be: what it costs would be taken for the server's."""

    def __init__(self, token: str) -> None:
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._socket = socket.create_connection(("127.0.0.1", settings.GLEANER.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, typed: str, parts: Parts) -> tuple[float, bytes]:
        """(ms until the last byte, the body)."""
        address = f"/api/search/?{urlencode({'q': typed, 'parts': parts})}"
        began = time.perf_counter()
        self._socket.sendall(f"GET {address} HTTP/1.1\r\n{self._head}".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), received
        lines = (line.split(b":") for line in head.lower().split(b"\r\n")[1:])
        (length,) = (int(line[1]) for line in lines if line[0] == b"content-length")
        while len(body) < length:
            body += self._receive()
        return (time.perf_counter() - began) * 1000, body

    def _receive(self) -> bytes:
        data = self._socket.recv(65_536)
        assert data, "The server closed the connection."
        return data


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

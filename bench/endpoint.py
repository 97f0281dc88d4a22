"""What HTTP adds to a search: `/api/search/` on all cities, beside the engine's own work.

The same query in turns: in this process only what the engine does (open, hits, total, facets,
histogram), then as a request to the web process of `make up`, signed in by JWT on a kept
connection. What is judged is the 95th percentile of the differences.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

from django.conf import settings

from bench import own_portal

# isort: split
from rest_framework_simplejwt.tokens import RefreshToken

from bench.cities import ALL_CITIES, ask, build_documents, read_cities
from bench.searchers import EVERYTHING, PATIENCE_SECONDS
from bench.table import Options, Row, judge, quantile, run_benchmark, say
from search.engines import get_engine
from search.engines.base import Deadline, Engine
from search.histogram import choose_step
from search.query import read_query
from search.services import find_hits

WARM_UP = 50
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
    whole, engines, services = [], [], []
    with own_portal.run_programs("redis", "web"):
        own_portal.wait_for("the web process", _is_up)
        connection = http.client.HTTPConnection("127.0.0.1", settings.GLEANER.port, timeout=30)
        for index, question in enumerate(questions):
            engine_ms = _time_engine(engine, question.typed)
            whole_ms, service_ms = _time_request(connection, token, question.typed)
            if index >= WARM_UP:
                whole.append(whole_ms)
                engines.append(engine_ms)
                services.append(service_ms)
    added = [a - b for a, b in zip(whole, engines, strict=True)]
    outside = [a - b for a, b in zip(whole, services, strict=True)]
    what = f"endpoint, {len(cities):,} cities"
    p95 = quantile(added, 95)
    return [
        Row(
            f"{what}: p95 of what HTTP adds to the engine's work",
            f"{p95:.1f} ms (p50 {quantile(added, 50):.1f})",
            f"engine p95 {quantile(engines, 95):.1f} ms",
            None,
            f"≤ {TARGET_MS:g} ms",
            judge(p95, at_most=TARGET_MS),
        ),
        Row(
            f"{what}: p95 of a whole request; of it outside `took_ms`",
            f"{quantile(whole, 95):.1f} ms; {quantile(outside, 95):.1f} ms",
        ),
    ]


def _is_up() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", settings.GLEANER.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _time_engine(engine: Engine, typed: str) -> float:
    query = read_query({"q": [typed]})
    began = time.perf_counter()
    deadline = Deadline(PATIENCE_SECONDS)
    with closing(engine.open()) as view:
        plan, found = find_hits(view, query, EVERYTHING, deadline)
        step = choose_step(query, view.read_time_bounds())
        view.summarise(plan, found, interval_us=step, deadline=deadline)
    return (time.perf_counter() - began) * 1000


def _time_request(
    connection: http.client.HTTPConnection, token: str, typed: str
) -> tuple[float, float]:
    """(ms of the whole request with its JSON read, `took_ms` of the answer)."""
    began = time.perf_counter()
    connection.request(
        "GET",
        f"/api/search/?{urlencode({'q': typed})}",
        headers={"Authorization": f"Bearer {token}"},
    )
    response = connection.getresponse()
    answer = json.loads(response.read())
    took_ms = (time.perf_counter() - began) * 1000
    assert response.status == 200, answer
    return took_ms, answer["took_ms"]


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""An upstream that writes down each request that reaches it and what it answered.

Its log is the other side's account of a run: what the ledger says must follow from it.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ingest.outcomes import Outcome
from tests.ingest.upstream import serve

TICK_SECONDS = 0.005
HTML = "<html><body>Something is not as it should be.</body></html>"


@dataclass(frozen=True, slots=True)
class Manners:
    """How a row is answered: `troubles` at first, one after the other, then `lasting`."""

    lasting: Outcome
    troubles: tuple[Outcome, ...] = ()

    def choose(self, turn: int) -> Outcome:
        return self.troubles[turn] if turn < len(self.troubles) else self.lasting


FINE = Manners(Outcome.DELIVERED)
# (share of the rows, how they are answered); the rest is fine.
UNRULY: tuple[tuple[float, Manners], ...] = (
    (0.02, Manners(Outcome.MISSING)),
    (0.01, Manners(Outcome.EMPTY)),
    (0.01, Manners(Outcome.MALFORMED)),
    (0.01, Manners(Outcome.FAILED)),
    (0.02, Manners(Outcome.DELIVERED, (Outcome.FAILED,))),
    (0.01, Manners(Outcome.DELIVERED, (Outcome.FAILED, Outcome.FAILED))),
    (0.02, Manners(Outcome.DELIVERED, (Outcome.REFUSED,))),
    (0.01, Manners(Outcome.DELIVERED, (Outcome.MALFORMED,))),
    (0.01, Manners(Outcome.DELIVERED, (Outcome.EMPTY,))),
)


@dataclass(frozen=True, slots=True)
class Reception:
    """One request as the upstream saw it. `keys`: those of the good records in the answer.

    It came at `at`, or a little earlier where the upstream was held up, but not before `since`.
    """

    number: int
    since: float
    at: float
    outcome: Outcome
    status: int
    keys: tuple[str, ...]


@dataclass
class Service:
    """What is behind one path of the upstream, with its log."""

    name: str
    count: int
    seed: int
    latency_seconds: float = 0.0
    troubles: tuple[tuple[float, Manners], ...] = ()
    # When the upstream's loop turned last; what came before the first of these is in the log.
    ticks: deque[float] = field(default_factory=lambda: deque([0.0]))
    # Seconds that a 429 names.
    retry_after: int | None = None
    log: list[Reception] = field(default_factory=list)
    turns: Counter[int] = field(default_factory=Counter)
    manners: dict[int, Manners] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        shares = [share for share, _ in self.troubles]
        kinds = [each for _, each in self.troubles]
        for number in range(1, self.count + 1):
            picked = chance.choices([*kinds, FINE], [*shares, 1 - sum(shares)])
            self.manners[number] = picked[0]

    def receive(self, number: int) -> Reception:
        turn = self.turns[number]
        self.turns[number] += 1
        outcome = self.manners[number].choose(turn)
        keys: tuple[str, ...] = ()
        if outcome == Outcome.DELIVERED:
            keys = self.keys_of(number)
        elif outcome == Outcome.MALFORMED and self.manners[number].lasting == outcome:
            keys = self.keys_of(number)[:1]  # beside a record that has no key
        reception = Reception(number, self.ticks[0], time.time(), outcome, STATUS[outcome], keys)
        self.log.append(reception)
        return reception

    def keys_of(self, number: int) -> tuple[str, ...]:
        """One to three records, the last of them shared with other rows."""
        own = [f"{number}-{position}" for position in range(1 + number % 2)]
        return (*own, f"shared-{number % 50}") if number % 7 == 0 else tuple(own)

    def write_body(self, reception: Reception) -> str:
        records: list[dict[str, Any]] = [
            {"id": key, "name": f"{self.name} {key}"} for key in reception.keys
        ]
        if reception.outcome == Outcome.DELIVERED:
            return json.dumps({"data": records})
        if reception.outcome == Outcome.EMPTY:
            return json.dumps({"data": []})
        if reception.outcome == Outcome.MALFORMED:
            return json.dumps({"data": [*records, {"id": None}]}) if records else HTML
        return json.dumps({"error": "not this time"})

    @property
    def sends(self) -> int:
        return len(self.log)

    @property
    def last_answers(self) -> dict[int, Reception]:
        return {reception.number: reception for reception in self.log}

    def count_peak(self, seconds: float = 1.0) -> int:
        """The most requests that came within some window [t, t + seconds).

        What had to wait for the upstream itself may have come before: it is counted only where
        it has come within the window all the same.
        """
        noted = [reception.at for reception in self.log]
        return max(
            bisect.bisect_left(noted, reception.since + seconds) - number
            for number, reception in enumerate(self.log)
        )


STATUS = {
    Outcome.DELIVERED: 200,
    Outcome.EMPTY: 200,
    Outcome.MALFORMED: 200,
    Outcome.MISSING: 404,
    Outcome.REFUSED: 429,
    Outcome.FAILED: 500,
}


class Upstream:
    """The server; `open_service` before a run asks it."""

    def __init__(self) -> None:
        self.address = ""
        self.services: dict[str, Service] = {}
        # While it is clear, requests are received and not answered.
        self.is_answering = threading.Event()
        self.is_answering.set()
        self.ticks: deque[float] = deque([0.0], maxlen=4)

    async def watch(self, app: web.Application) -> AsyncIterator[None]:
        async def tick() -> None:
            while True:
                self.ticks.append(time.time())
                await asyncio.sleep(TICK_SECONDS)

        watching = asyncio.create_task(tick())
        yield
        watching.cancel()

    def open_service(self, name: str, count: int, **more: Any) -> Service:
        """A service of that name, or of a longer one where a test is tried again."""
        while name in self.services:
            name += "-again"
        service = self.services[name] = Service(
            name, count, **{"seed": 0, "ticks": self.ticks, **more}
        )
        return service

    def url_of(self, service: Service) -> str:
        return f"{self.address}/{service.name}/{{id}}"

    async def answer(self, request: web.Request) -> web.Response:
        service = self.services[request.match_info["service"]]
        reception = service.receive(int(request.match_info["number"]))
        if service.latency_seconds:
            await asyncio.sleep(service.latency_seconds)
        while not self.is_answering.is_set():
            await asyncio.sleep(0.02)
        is_html = reception.outcome == Outcome.MALFORMED and not reception.keys
        headers = {}
        if service.retry_after is not None and reception.outcome == Outcome.REFUSED:
            headers["Retry-After"] = str(service.retry_after)
        return web.Response(
            status=reception.status,
            headers=headers,
            text=service.write_body(reception),
            content_type="text/html" if is_html else "application/json",
        )


@contextlib.contextmanager
def serve_upstream() -> Iterator[Upstream]:
    """The server in a thread of this process."""
    upstream = Upstream()
    app = web.Application()
    app.cleanup_ctx.append(upstream.watch)
    app.router.add_get("/{service}/{number}", upstream.answer)
    with serve(app, access_log=None) as upstream.address:
        try:
            yield upstream
        finally:
            upstream.is_answering.set()

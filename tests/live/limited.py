"""Upstreams with limits of their own, in one process: what came is counted as a server counts.

    python -m tests.live.limited SPEC…      a line with the addresses, then serves until stopped

Each SPEC is the JSON of a `Limit`, served on a port of its own. `/{id}` answers with a record or a
429, `/seen` with all that came: {"seen": [[seconds, passed], …], "lag": …, "stalled": …}. What
comes while the process has to wait for a processor is noted when it has one: at most `lag` too
late. `stalled`: for how many seconds it stood still, in pieces that others must have felt too.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import uvloop
from aiohttp import web

from tests.live.stack import ask_upstream

LAG_SECONDS = 0.005
STALL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Limit:
    """How the server refuses.

    `kind`: none · sliding (so many in any span) · strict (likewise, what is refused counts too)
    · fixed (so many in each span of the clock) · bucket (tokens; `burst` of them at most).
    `refused_share` of the ids are refused once, whatever the rate is. `is_named`: with Retry-After.
    """

    kind: str = "none"
    requests: int = 0
    seconds: float = 1.0
    burst: int = 0
    refused_share: float = 0.0
    is_named: bool = False
    latency_seconds: float = 0.01


@dataclass
class LimitedServer:
    limit: Limit
    seen: list[tuple[float, bool]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    window: deque[float] = field(default_factory=deque)
    tokens: float = 0.0
    lag: float = 0.0
    stalled: float = 0.0
    at: float = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        now = time.monotonic()
        key = request.match_info["id"]
        wait = self.find_wait(now)
        if wait is None and self.is_refused_once(key):
            wait = 1.0
        self.seen.append((now, wait is None))
        await asyncio.sleep(self.limit.latency_seconds)
        if wait is None:
            return web.json_response({"id": key, "name": f"thing {key}"})
        named = {"Retry-After": str(max(1, math.ceil(wait)))} if self.limit.is_named else {}
        return web.json_response({"error": "slow down"}, status=429, headers=named)

    def is_refused_once(self, key: str) -> bool:
        share = self.limit.refused_share
        if not share or key in self.refused or hash_share(key) >= share:
            return False
        self.refused.add(key)
        return True

    def find_wait(self, now: float) -> float | None:
        """None where a request passes, else the seconds until one would."""
        limit, window = self.limit, self.window
        if limit.kind == "none":
            return None
        if limit.kind == "bucket":
            rate = limit.requests / limit.seconds
            elapsed = now - self.at if self.at else math.inf
            self.tokens = min(limit.burst, self.tokens + elapsed * rate)
            self.at = now
            if self.tokens < 1:
                return (1 - self.tokens) / rate
            self.tokens -= 1
            return None
        start = now - limit.seconds
        if limit.kind == "fixed":
            start = math.floor(now / limit.seconds) * limit.seconds - 1e-9
        while window and window[0] <= start:
            window.popleft()
        is_full = len(window) >= limit.requests
        if not is_full or limit.kind == "strict":
            window.append(now)
        return window[0] + limit.seconds - now if is_full else None

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response({"seen": self.seen, "lag": self.lag, "stalled": self.stalled})

    async def watch_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            if self.seen:
                lag = time.monotonic() - before - LAG_SECONDS
                self.lag = max(self.lag, lag)
                self.stalled += lag if lag > STALL_SECONDS else 0.0


def hash_share(key: str) -> float:
    """A number in [0, 1) that looks random and is the same in every process."""
    return (int(key) * 2_654_435_761 % 2**32) / 2**32


async def _serve(limits: Sequence[Limit]) -> None:
    addresses, watches = [], []
    for limit in limits:
        server = LimitedServer(limit)
        watches.append(asyncio.create_task(server.watch_lag()))
        app = web.Application()
        app.router.add_get("/seen", server.tell)
        app.router.add_get("/{id}", server.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        addresses.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
    print(json.dumps(addresses), flush=True)  # noqa: T201 - for the parent process
    await asyncio.gather(*watches)


@contextlib.contextmanager
def serve_limited(*limits: Limit) -> Iterator[list[str]]:
    """Gives an address for each limit."""
    specs = [json.dumps(asdict(limit)) for limit in limits]
    command = [sys.executable, "-m", "tests.live.limited", *specs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses: list[str] = json.loads(process.stdout.readline())
            yield addresses
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a server saw: the times of all requests, and of those that passed, in order."""

    all: list[float]
    passed: list[float]
    lag: float
    stalled: float

    @classmethod
    def of(cls, address: str) -> Traffic:
        told = ask_upstream(address, "/seen")
        seen = told["seen"]
        passed = [at for at, is_passed in seen if is_passed]
        return cls([at for at, _ in seen], passed, told["lag"], told["stalled"])

    def since(self, seconds: float) -> Traffic:
        """Without the first seconds, the warm-up."""
        begin = self.all[0] + seconds
        return Traffic(
            [at for at in self.all if at >= begin],
            [at for at in self.passed if at >= begin],
            self.lag,
            self.stalled,
        )

    def peak(self, seconds: float) -> int:
        """The most requests in any [t, t + seconds)."""
        return max(
            bisect.bisect_left(self.all, at + seconds) - number
            for number, at in enumerate(self.all)
        )

    def largest_group(self, pause_seconds: float) -> int:
        """The most requests between two silences of at least so long."""
        largest = size = 1
        for earlier, later in zip(self.all, self.all[1:], strict=False):
            size = 1 if later - earlier >= pause_seconds else size + 1
            largest = max(largest, size)
        return largest

    def rate(self) -> float:
        """Passed requests per second from the first to the last."""
        return (len(self.passed) - 1) / (self.passed[-1] - self.passed[0])

    @property
    def refused_share(self) -> float:
        return 1 - len(self.passed) / len(self.all)


def describe_source(slug: str, address: str, *, count: int, **limits: object) -> dict[str, object]:
    """The configuration of a source that asks a limited server."""
    return {
        "slug": slug,
        "request": {"url": f"{address}/{{id}}", "timeout_seconds": 10},
        "plan": {"type": "range", "name": "id", "start": 1, "stop": count},
        "records": {"title": "name"},
        "limits": {"per_second": None, "concurrency": 10, "deadline_seconds": 3600, **limits},
        "retry": {"attempts": 20},
    }


if __name__ == "__main__":
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        contextlib.suppress(KeyboardInterrupt),
    ):
        runner.run(_serve([Limit(**json.loads(spec)) for spec in sys.argv[1:]]))

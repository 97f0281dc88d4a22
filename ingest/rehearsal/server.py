"""The rehearsal upstream as an aiohttp server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.utils import formatdate
from typing import Any, Final

import uvloop
from aiohttp import web

from ingest.outcomes import Outcome
from ingest.rehearsal.answers import (
    BAD_ANSWERS,
    JSON_TYPE,
    announce_twice,
    cut_off,
    drip,
    overrun,
    reset_connection,
    say,
)
from ingest.rehearsal.cities import load_cities
from ingest.rehearsal.misbehaviour import (
    NAMES_A_WAIT,
    OUTCOME_OF,
    PROFILES,
    Misbehaviour,
    Profile,
    Rule,
    assign_rules,
)
from ingest.rehearsal.witness import Witness

DEFAULT_COUNT: Final = 10_000


class Upstream:
    """The server's state: its cities as bytes, its rules by id, and the witness."""

    def __init__(
        self,
        profile: Profile,
        count: int,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.profile = profile
        self.count = count
        self.rules = assign_rules(profile, count)
        self.witness = Witness()
        self._clock = clock
        self._sleep = sleep
        self._bodies = [
            json.dumps({"data": city}, ensure_ascii=False).encode() for city in load_cities(count)
        ]

    def body_of(self, number: int) -> bytes:
        return self._bodies[number - 1]

    async def answer_city(self, request: web.Request) -> web.StreamResponse:
        now = self._clock()
        within_second = self.witness.arrive(now)
        try:
            return await self._answer(request, now, within_second)
        finally:
            self.witness.leave(self._clock())

    async def _answer(
        self, request: web.Request, now: float, within_second: int
    ) -> web.StreamResponse:
        number = self._read_number(request.match_info["id"])
        if number is None:
            self.witness.strays += 1
            return say(404, "There is no such city.")
        self.witness.sends[number] += 1
        if self.profile.latency_seconds:
            await self._sleep(self.profile.latency_seconds)
        if self.profile.max_per_second and within_second > self.profile.max_per_second:
            return self._refuse(number, now, wait_seconds=1)
        is_too_early = self.witness.is_too_early(number, now)
        rule = self.rules.get(number)
        if rule is None or (not is_too_early and self._has_healed(number, rule)):
            return self._deliver(number)
        if is_too_early:
            return self._name_wait(number, rule, now)
        return await self._misbehave(request, number, rule, now)

    async def answer_moved(self, request: web.Request) -> web.Response:
        """Where a redirect leads: the good answer, a request of its own."""
        self.witness.arrive(self._clock())
        number = self._read_number(request.match_info["id"])
        try:
            return self._deliver(number) if number else say(404, "There is no such city.")
        finally:
            self.witness.leave(self._clock())

    def _read_number(self, text: str) -> int | None:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            return None
        number = int(text)
        return number if 1 <= number <= self.count else None

    def _has_healed(self, number: int, rule: Rule) -> bool:
        return rule.failures is not None and self.witness.bad_answers[number] >= rule.failures

    def _deliver(self, number: int) -> web.Response:
        self.witness.waits.pop(number, None)
        self._note(number, Outcome.DELIVERED, "200")
        return web.Response(body=self._bodies[number - 1], content_type=JSON_TYPE)

    def _note(self, number: int, outcome: Outcome, status: str) -> None:
        self.witness.last[number] = outcome
        self.witness.statuses[status] += 1

    def _refuse(self, number: int, now: float, *, wait_seconds: int) -> web.Response:
        self._note(number, Outcome.REFUSED, "429")
        self.witness.name_wait(number, now, now + wait_seconds)
        return say(429, "Too many requests.", {"Retry-After": str(wait_seconds)})

    async def _misbehave(
        self, request: web.Request, number: int, rule: Rule, now: float
    ) -> web.StreamResponse:
        self.witness.bad_answers[number] += 1
        if rule.does in NAMES_A_WAIT:
            return self._name_wait(number, rule, now)
        if rule.does is Misbehaviour.SLOW:
            self.witness.seconds_slow += rule.wait_seconds
            await self._sleep(rule.wait_seconds)
            return self._deliver(number)
        if rule.does is Misbehaviour.RESET:
            self._note(number, Outcome.FAILED, "reset")
            return reset_connection(request)
        if rule.does is Misbehaviour.CUT_OFF:
            self._note(number, Outcome.FAILED, "cut off")
            return await cut_off(request, self.body_of(number))
        if rule.does is Misbehaviour.DRIP:
            self.witness.seconds_slow += rule.wait_seconds
            self._note(number, Outcome.DELIVERED, "200")
            return await drip(
                request, self.body_of(number), seconds=rule.wait_seconds, sleep=self._sleep
            )
        if rule.does is Misbehaviour.OVERLONG:
            self._note(number, Outcome.DELIVERED, "200")
            return overrun(request, self.body_of(number))
        if rule.does is Misbehaviour.TWO_LENGTHS:
            self._note(number, Outcome.FAILED, "two lengths")
            return announce_twice(request, self.body_of(number))
        if rule.does is Misbehaviour.MOVED:
            self.witness.statuses["302"] += 1
            return web.Response(status=302, headers={"Location": f"/moved/{number}"})
        response = BAD_ANSWERS[rule.does](self.body_of(number))
        self._note(number, OUTCOME_OF[rule.does], str(response.status))
        return response

    def _name_wait(self, number: int, rule: Rule, now: float) -> web.Response:
        earlier = self.witness.waits.get(number)
        until = earlier.until if earlier else now + rule.wait_seconds
        if rule.does is Misbehaviour.REFUSED_DATE:
            until = math.ceil(until)  # an HTTP-date has whole seconds
            text = formatdate(until, usegmt=True)
        else:
            text = str(max(1, math.ceil(until - now)))
        if earlier is None:
            self.witness.name_wait(number, now, until)
        status = 503 if rule.does is Misbehaviour.UNAVAILABLE_SECONDS else 429
        self._note(number, Outcome.FAILED if status == 503 else Outcome.REFUSED, str(status))
        return say(status, "Please come back later.", {"Retry-After": text})

    async def answer_truth(self, request: web.Request) -> web.Response:
        try:
            asked = [int(text) for text in request.query.get("ids", "").split(",") if text]
        except ValueError:
            return say(400, "ids: a comma list of numbers.")
        return web.json_response(self.tell_truth(asked))

    async def answer_health(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "profile": self.profile.name, "count": self.count})

    async def answer_reset(self, request: web.Request) -> web.Response:
        self.witness = Witness()
        return web.json_response({"ok": True})

    def tell_truth(self, ids: list[int] | None = None) -> dict[str, Any]:
        """What was really answered (`outcomes`, `gaps`), what the profile plans, and the traffic.

        `outcomes` counts each id once, by its *last* answer; `gaps` lists the ids whose last answer
        was not a delivery. `expected_outcomes` is what a client ends with that repeats and sweeps
        properly. `sends` covers the ids asked for.
        """
        witness = self.witness
        gaps: dict[str, list[int]] = defaultdict(list)
        for number, outcome in witness.last.items():
            if outcome is not Outcome.DELIVERED:
                gaps[outcome.value].append(number)
        return {
            "profile": self.profile.name,
            "count": self.count,
            "seed": self.profile.seed,
            "outcomes": _count_all(Counter(witness.last.values())),
            "never_asked": self.count - len(witness.last),
            "gaps": {outcome: sorted(numbers) for outcome, numbers in sorted(gaps.items())},
            "expected_outcomes": self._expect_outcomes(),
            "planned_misbehaviour": self._list_plan(),
            "requests": {
                "total": witness.total,
                "strays": witness.strays,
                "answers": dict(sorted(witness.statuses.items())),
                "peak_per_second": witness.peak_per_second,
                "peak_in_flight": witness.peak_in_flight,
                "first_at": witness.first_at,
                "last_at": witness.last_at,
            },
            "waits": {
                "named": witness.waits_named,
                "honoured": witness.waits_honoured,
                "violated": witness.waits_violated,
                "still_open": len(witness.waits),
                "seconds_named": round(witness.seconds_named, 3),
                "longest_seconds": round(max(witness.seconds_named_to.values(), default=0.0), 3),
                "slow_seconds": round(witness.seconds_slow, 3),
                "idle_seconds": round(witness.idle_seconds, 3),
                "seconds_the_profile_asks_for": self._sum_planned_waits(),
            },
            "sends": {str(number): witness.sends.get(number, 0) for number in ids or []},
        }

    def _expect_outcomes(self) -> dict[str, int]:
        expected = Counter(rule.final_outcome for rule in self.rules.values())
        expected[Outcome.DELIVERED] += self.count - len(self.rules)
        return _count_all(expected)

    def _list_plan(self) -> dict[str, dict[str, Any]]:
        plan: dict[str, dict[str, Any]] = {
            rule.name: {
                "does": rule.does.value,
                "failures": rule.failures,
                "ends_as": rule.final_outcome.value,
                "ids": [],
            }
            for rule in self.profile.rules
        }
        for number in sorted(self.rules):
            plan[self.rules[number].name]["ids"].append(number)
        return plan

    def _sum_planned_waits(self) -> int:
        return sum(
            rule.wait_seconds * (rule.failures or 1)
            for rule in self.rules.values()
            if rule.does in NAMES_A_WAIT or rule.does in {Misbehaviour.SLOW, Misbehaviour.DRIP}
        )


UPSTREAM: Final = web.AppKey("upstream", Upstream)


def _count_all(counted: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.value: counted.get(outcome, 0) for outcome in Outcome}


def make_app(*, profile: str | Profile = "unruly", count: int = DEFAULT_COUNT) -> web.Application:
    """The upstream as an aiohttp application; its state is `app[UPSTREAM]`.

    Raises CitiesUnavailable, and KeyError for a profile that does not exist.
    """
    upstream = Upstream(profile if isinstance(profile, Profile) else PROFILES[profile], count)
    app = web.Application()
    app[UPSTREAM] = upstream
    app.router.add_get("/cities/{id}", upstream.answer_city, allow_head=False)
    app.router.add_get("/moved/{id}", upstream.answer_moved, allow_head=False)
    app.router.add_get("/truth", upstream.answer_truth)
    app.router.add_get("/health", upstream.answer_health)
    app.router.add_post("/reset", upstream.answer_reset)
    return app


async def start_site(app: web.Application, *, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Listens; gives the runner, to clean up with, and the port (useful where `port` was 0)."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    return runner, runner.addresses[0][1]


@contextlib.contextmanager
def serve_in_thread(
    *, profile: str | Profile = "unruly", count: int = DEFAULT_COUNT, port: int = 0
) -> Iterator[str]:
    """Serves from a thread with a loop of its own; gives the base URL."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rehearsal", daemon=True)
    thread.start()
    try:
        app = make_app(profile=profile, count=count)
        starting = start_site(app, host="127.0.0.1", port=port)
        runner, bound = asyncio.run_coroutine_threadsafe(starting, loop).result(timeout=30)
        try:
            yield f"http://127.0.0.1:{bound}"
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()

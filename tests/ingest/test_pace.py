"""The learned rate against simulated upstreams, with simulated time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from ingest.fetch.pace import Pace

LATENCY = 0.02
TOP_RATE = 500  # of a client without a limit


def simulate(
    pace: Pace, refuses: Callable[[float], float | None], *, seconds: float, start: float = 1000.0
) -> list[tuple[float, bool]]:
    """(time, refused) of each send while `pace` is obeyed.

    `refuses` gives None where a send passes, else the wait that the 429 names (0 = none).
    """
    answers: list[tuple[float, bool]] = []
    on_the_way: deque[tuple[float, float, float | None]] = deque()
    now = next_send = start
    end = now + seconds
    while now < end:
        now = next_send
        while on_the_way and on_the_way[0][1] <= now:
            sent_at, at, wait = on_the_way.popleft()
            is_refused = wait is not None
            pace.note(
                sent_at=sent_at, now=at, is_refused=is_refused, named_wait=wait or None, cap=60
            )
            answers.append((sent_at, is_refused))
        if now < pace.held_until:
            next_send = now + 0.01
            continue
        on_the_way.append((now, now + LATENCY, refuses(now)))
        next_send = now + 1 / (pace.limit * 0.97 if pace.limit else TOP_RATE)
    return answers


class SlidingLimit:
    """An upstream that lets `limit` requests pass in any second, and counts only those."""

    def __init__(self, limit: int, *, wait: float = 0.0) -> None:
        self.limit = limit
        self.wait = wait
        self.passed: deque[float] = deque()

    def __call__(self, now: float) -> float | None:
        while self.passed and self.passed[0] <= now - 1:
            self.passed.popleft()
        if len(self.passed) >= self.limit:
            return self.wait
        self.passed.append(now)
        return None


def test_a_hidden_limit_is_found_and_used():
    pace = Pace(configured=None)
    answers = simulate(pace, SlidingLimit(20), seconds=150)
    steady = [refused for at, refused in answers if at > 1030]
    passed = steady.count(False)
    assert passed >= 0.85 * 20 * 120
    assert steady.count(True) <= 0.01 * len(steady)


def test_refusals_that_are_not_about_the_rate_do_not_slow_it_down():
    source = random.Random(1)
    pace = Pace(configured=100)
    answers = simulate(pace, lambda now: 0 if source.random() < 0.06 else None, seconds=60)
    assert len(answers) >= 0.95 * 0.97 * 100 * 60
    assert pace.rate is None


def test_a_fall_that_does_not_help_is_taken_back():
    source = random.Random(1)
    pace = Pace(configured=100)
    simulate(pace, lambda now: 0 if source.random() < 0.4 else None, seconds=20)
    assert pace.limit == 100


def test_the_rate_never_falls_below_one_a_second_and_at_most_once_a_second():
    pace = Pace(configured=50)
    rates = []
    for step in range(200):
        now = 1000 + step * 0.01
        pace.note(sent_at=now - 0.001, now=now, is_refused=True, named_wait=None, cap=60)
        rates.append(pace.limit)
    assert min(rate for rate in rates if rate) >= 1.0
    assert len(set(rates)) <= 3


def test_a_limit_that_is_lifted_is_used_again():
    upstream = SlidingLimit(20)
    pace = Pace(configured=60)
    simulate(pace, upstream, seconds=30)
    assert pace.limit is not None
    assert pace.limit < 25
    upstream.limit = 1000
    simulate(pace, upstream, seconds=400, start=1040.0)
    assert pace.limit == 60


def test_the_host_is_held_only_when_half_of_its_answers_name_a_delay():
    pace = Pace(configured=None)
    for number in range(20):
        named = 30.0 if number % 3 == 0 else None
        pace.note(sent_at=1000, now=1000, is_refused=named is not None, named_wait=named, cap=60)
    assert pace.held_until == 0
    for _ in range(10):
        pace.note(sent_at=1000, now=1001, is_refused=True, named_wait=300.0, cap=60)
    assert pace.held_until == 1061  # never longer than the cap

"""The learned rate against simulated upstreams, with simulated time."""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import Callable

import pytest

from ingest.fetch.pace import Control, Pace
from tests.live.limited import Limit, LimitedServer

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
        next_send = now + 1 / (pace.limit / 1.06 if pace.limit else TOP_RATE)
    return answers


def upstream_of(limit: Limit) -> Callable[[float], float | None]:
    """An upstream that refuses beyond `limit`; it names no delay."""
    server = LimitedServer(limit)
    return lambda now: None if server.find_wait(now) is None else 0


def measure(pace: Pace, limit: Limit, *, warm_up: float, seconds: float) -> tuple[float, float]:
    """(share of the limit that was used, share of refusals) after a warm-up."""
    answers = simulate(pace, upstream_of(limit), seconds=warm_up + seconds)
    steady = [refused for at, refused in answers if at > 1000 + warm_up]
    passed = steady.count(False)
    return passed / seconds / (limit.requests / limit.seconds), steady.count(True) / len(steady)


@pytest.mark.parametrize("configured", [None, 50.0])
@pytest.mark.parametrize(
    "limit",
    [
        Limit("sliding", 20),
        Limit("strict", 20),
        Limit("fixed", 20),
        Limit("bucket", 20, burst=5),
        Limit("bucket", 20, burst=100),
        Limit("sliding", 3),
    ],
    ids=lambda limit: f"{limit.kind} {limit.requests} {limit.burst}",
)
def test_a_hidden_limit_is_found_and_used(limit: Limit, configured: float | None):
    used, refused = measure(Pace(configured=configured), limit, warm_up=30, seconds=120)
    assert used >= 0.85
    assert refused <= 0.01


@pytest.mark.parametrize("kind", ["sliding", "fixed", "bucket"])
def test_a_hidden_limit_per_minute_is_found_too(kind: str):
    limit = Limit(kind, 600, seconds=60, burst=600)
    used, refused = measure(Pace(configured=50), limit, warm_up=180, seconds=600)
    assert used >= 0.8
    assert refused <= 0.01


def test_slices_share_what_one_has_learned_and_the_newest_counts():
    one, other = Pace(configured=100), Pace(configured=100)
    simulate(one, upstream_of(Limit("sliding", 20)), seconds=30)
    assert one.rate is not None
    told = json.loads(json.dumps(one.control.as_json()))
    other.adopt(Control.of(told))
    assert other.rate == one.rate
    other.adopt(Control(at=told["at"] - 1, rate=99.0))
    assert other.rate == one.rate


def test_a_short_trouble_does_not_slow_down_for_long():
    """A server that stalls refuses what piles up; the rate that was borne before is soon back."""
    refuses = upstream_of(Limit("sliding", 20))
    pace = Pace(configured=None)
    simulate(pace, refuses, seconds=200)
    borne = pace.rate
    assert borne is not None
    number = itertools.count()
    simulate(pace, lambda now: 0 if next(number) % 3 else None, seconds=1.3, start=1200)
    assert pace.rate is not None
    assert pace.rate < 0.7 * borne
    simulate(pace, refuses, seconds=20, start=1201.5)
    assert pace.rate >= 0.9 * borne


def test_what_passed_is_that_of_all_who_are_at_the_host():
    """Half of the sends are somebody else's; the limit that is learned is the host's."""
    alone, crowded = Pace(configured=None), Pace(configured=None)
    crowded.crowd = 2.0
    for pace in (alone, crowded):
        for number in range(30):
            at = 1000 + number * 0.001
            pace.note(sent_at=at, now=at, is_refused=number >= 10, named_wait=None, cap=60)
        pace.note(sent_at=1001.1, now=1001.1, is_refused=False, named_wait=None, cap=60)
    assert alone.rate is not None
    assert alone.rate == pytest.approx(10, rel=0.01)
    assert crowded.rate == pytest.approx(2 * alone.rate)


def test_while_everything_is_refused_single_probes_go_out_ever_more_seldom():
    pace = Pace(configured=50)
    answers = simulate(pace, lambda now: 0, seconds=60)
    assert pace.limit == 1.0
    assert len(answers) <= 25


def test_refusals_that_are_not_about_the_rate_do_not_slow_it_down():
    source = random.Random(1)
    pace = Pace(configured=100)
    answers = simulate(pace, lambda now: 0 if source.random() < 0.06 else None, seconds=60)
    assert len(answers) >= 0.94 / 1.06 * 100 * 60
    assert pace.rate is None


def test_a_fall_that_does_not_help_is_taken_back():
    source = random.Random(1)
    pace = Pace(configured=100)
    simulate(pace, lambda now: 0 if source.random() < 0.4 else None, seconds=20)
    assert pace.limit == 100


def on_trial(*, rate: float, before: float, share: float) -> Pace:
    """A fall from `before` to `rate`, because this share was refused."""
    pace = Pace(configured=None)
    pace.adopt(
        Control(
            at=1000,
            rate=rate,
            changed_at=1000,
            fell_at=1000,
            trial_at=1000,
            trial_rate=before,
            trial_share=share,
        )
    )
    return pace


def test_a_fall_that_was_too_small_to_help_is_followed_by_another():
    """A limit of 20, found with a rate of 30: 27 does not help, which tells nothing yet."""
    pace = on_trial(rate=27.0, before=30.0, share=0.2)
    simulate(pace, upstream_of(Limit("sliding", 20)), seconds=8)
    assert pace.rate is not None
    assert pace.rate < 22
    assert pace.control.noise_share == 0


def test_a_fall_that_one_slice_has_seen_help_helped():
    """Each sees half of the answers; who saw more refusals hears of it before it judges."""
    one, other = (on_trial(rate=22.0, before=30.0, share=0.3) for _ in range(2))
    for step in range(35):
        at = 1000 + step * 0.1
        one.note(sent_at=at, now=at, is_refused=False, named_wait=None, cap=60)
        is_refused = step < 30 and step % 5 == 0
        other.note(sent_at=at, now=at, is_refused=is_refused, named_wait=None, cap=60)
        if step == 32:
            other.adopt(Control.of(json.loads(json.dumps(one.control.as_json()))))
    assert other.control.noise_share == 0
    assert other.rate is not None
    assert other.rate < 28


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
    pace = Pace(configured=60)
    simulate(pace, upstream_of(Limit("sliding", 20)), seconds=30)
    assert pace.limit is not None
    assert pace.limit < 25
    simulate(pace, lambda now: None, seconds=400, start=1040.0)
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

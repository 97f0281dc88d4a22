"""Signs of a block or a dead host, seen by one slice or by several that report late."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ingest.configuration import SourceConfiguration, parse_configuration
from ingest.fetch.answers import Verdict
from ingest.fetch.signs import Signs, SignWatch
from ingest.fetch.streaks import KEPT, Streak
from ingest.outcomes import Outcome

GOOD = Verdict(Outcome.DELIVERED)
DENIED = Verdict(Outcome.DENIED, evidence={"reason": "403 Forbidden", "status": 403})
BANNED = Verdict(Outcome.DENIED, evidence={"reason": "403"}, block_marker="banned")
DEAD = Verdict(Outcome.FAILED)


def configure(**parts: Any) -> SourceConfiguration:
    return parse_configuration(
        {
            "slug": "x",
            "request": {"url": "http://h/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 1},
            **parts,
        }
    )


class Group:
    """Several slices of a run, which report when they are told to."""

    def __init__(self, count: int, configuration: SourceConfiguration | None = None) -> None:
        self.configuration = configuration or configure()
        self.shared = Signs()
        self.slices = [
            SignWatch(self.configuration, Signs(), is_alone=count == 1) for _ in range(count)
        ]
        self.reported = [0.0] * count

    def report(self, index: int, at: float) -> str:
        self.shared.absorb(self.slices[index].take_news())
        self.reported[index] = at
        self.shared.judge(self.configuration, at=at, until=min(self.reported))
        self.shared = Signs.of(json.loads(json.dumps(self.shared.as_json())))
        copy = Signs.of(self.shared.as_json())
        self.slices[index].adopt(copy, is_alone=len(self.slices) == 1)
        return self.shared.block_reason


def see(slice_: SignWatch, verdict: Verdict, *times: float, status: int | None = None) -> None:
    known = {Outcome.DELIVERED: 200, Outcome.DENIED: 403, Outcome.REFUSED: 429}
    for at in times:
        slice_.note(
            verdict, status or known.get(verdict.outcome), sent_at=at - 0.01, at=at, key=f"k{at:g}"
        )


def test_five_denials_in_a_row_block_whoever_saw_them():
    group = Group(2)
    first, second = group.slices
    see(first, DENIED, 1, 3, 5)
    see(second, DENIED, 2, 4)
    assert not group.report(0, 6)  # the other may have seen a good answer between
    assert group.report(1, 6) == "5 answers in a row were 401 or 403"
    assert group.shared.block_evidence["key"] == "k5"
    assert group.shared.block_evidence["status"] == 403
    assert first.block_reason == ""
    group.report(0, 7)
    assert first.block_reason


def test_a_good_answer_that_another_slice_saw_between_prevents_the_block():
    group = Group(2)
    first, second = group.slices
    see(first, DENIED, 1, 2, 4, 5)
    see(first, DENIED, 6, 7)
    see(second, GOOD, 3)
    assert not group.report(0, 8)
    assert not group.report(1, 8)
    see(first, DENIED, 9)
    assert not group.report(0, 10)
    assert group.report(1, 10)  # 4, 5, 6, 7, 9


def test_the_order_of_reports_does_not_matter():
    dice = random.Random(7)
    for _ in range(50):
        events = [(at, dice.random() < 0.7, dice.randrange(3)) for at in range(1, 40)]
        in_a_row = 0
        for _at, is_denied, _slice in events:
            in_a_row = in_a_row + 1 if is_denied else 0
        group = Group(3, configure(block={"patience": 1000}))
        for at, is_denied, index in events:
            see(group.slices[index], DENIED if is_denied else GOOD, at)
            if dice.random() < 0.2:
                group.report(dice.randrange(3), at)
        for index in dice.sample(range(3), 3):
            group.report(index, 100)
        assert group.shared.denied.count() == in_a_row


def test_alone_a_slice_decides_at_once_and_for_good():
    group = Group(1)
    watch = group.slices[0]
    see(watch, DENIED, 1, 2, 3, 4)
    assert not watch.block_reason
    see(watch, DENIED, 5)
    assert watch.block_reason
    see(watch, GOOD, 6)  # was under way
    assert group.report(0, 7) == "5 answers in a row were 401 or 403"


def test_a_marker_counts_when_the_answer_before_was_denied_too_whoever_got_it():
    group = Group(2)
    first, second = group.slices
    see(first, DENIED, 1)
    see(second, BANNED, 2)
    assert not group.report(1, 3)
    assert group.report(0, 3) == "an answer says that access is blocked"
    assert group.shared.block_evidence["marker"] == "banned"
    alone = Group(2)
    see(alone.slices[0], GOOD, 1)
    see(alone.slices[1], BANNED, 2)
    alone.report(0, 3)
    assert not alone.report(1, 3)


def test_a_circuit_is_opened_by_all_slices_together_and_closed_by_one_living_answer():
    group = Group(2, configure(block={"patience_5xx": 10}))
    for at in range(1, 11):
        see(group.slices[at % 2], DEAD, at)
    group.report(0, 11)
    assert not group.shared.is_host_down
    group.report(1, 11)
    assert group.shared.is_host_down
    assert group.shared.probe_after == 12
    group.report(0, 12)
    assert group.slices[0].is_host_down
    see(group.slices[0], GOOD, 13)
    assert not group.slices[0].is_host_down
    group.report(0, 14)
    assert not group.shared.is_host_down
    assert group.shared.has_answer


def test_probes_are_counted_over_slices_and_lie_further_and_further_apart():
    group = Group(1, configure(block={"patience_5xx": 2}, retry={"attempts": 3}))
    see(group.slices[0], DEAD, 1, 2)
    group.report(0, 2.5)
    gaps = []
    for at in (10.0, 20.0, 30.0):
        probe = SignWatch(group.configuration, Signs.of(group.shared.as_json()))
        group.slices = [probe]
        see(probe, DEAD, at)
        group.report(0, at + 0.5)
        gaps.append(group.shared.probe_after - at)
    assert gaps == [2.0, 4.0, 8.0]
    assert group.shared.is_given_up(group.configuration)


def test_the_rate_learned_last_counts():
    group = Group(2)
    first, second = group.slices
    first.note_pace(10.0, 0.0, at=2.0)
    second.note_pace(50.0, 7.0, at=1.0)
    group.report(0, 3)
    group.report(1, 3)
    assert (group.shared.rate, group.shared.held_until) == (10.0, 7.0)
    assert second.signs.rate == 10.0


@pytest.mark.parametrize("length", [KEPT - 1, KEPT, 3 * KEPT])
def test_a_long_streak_is_counted_without_keeping_all_of_it(length: int):
    streak, news = Streak(), Streak()
    for at in range(length):
        streak.extend(float(at))
    news.extend(float(length))
    streak.absorb(news)
    assert streak.count() == length + 1
    assert len(streak.times) <= KEPT
    streak.end(length - 0.5)
    assert streak.count() == 1

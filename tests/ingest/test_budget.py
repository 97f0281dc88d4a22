"""The budget of a host against a real Redis: what leaves, counted as a server would count it."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from django.conf import settings

from ingest.configuration import LimitsPart
from ingest.fetch.budget import (
    TOLERANCE_SECONDS,
    Budget,
    Parked,
    describe_limits,
    forget_member,
    keys_of,
)
from ingest.fetch.loop import _Leave
from ingest.fetch.pace import Control, Pace

_ORIGINS = itertools.count()


class FakeBook:
    """A book of one host in memory: what `ingest.hosts` keeps in the database."""

    def __init__(self, *, quota_left: int = 0, used_until: float = 0.0) -> None:
        self.left = quota_left
        self.noted_until = used_until
        self.ends_at = time.time() + 3600
        self.active: dict[str, LimitsPart] = {}

    async def touch(self, until: float) -> tuple[float, dict[str, LimitsPart]]:
        before, self.noted_until = self.noted_until, max(until, self.noted_until)
        return before, self.active

    async def allot(self, per: str, limit: int) -> int:
        sends = min(2, self.left)
        self.left -= sends
        return sends

    def periods(self, now: float) -> dict[str, tuple[str, float, float]]:
        begin = self.ends_at - 86_400
        return {per: (f"{per} {begin}", begin, self.ends_at) for per in ("hour", "day", "month")}


@pytest.fixture
def origin() -> str:
    return f"http://host-{time.monotonic_ns()}-{next(_ORIGINS)}:80"


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.REDIS_BUDGET_URL) as client:
        yield client


@asynccontextmanager
async def open_budget(
    origin: str, member: str = "run-1", *, book: FakeBook | None = None, **limits: Any
) -> AsyncIterator[Budget]:
    budget = Budget(
        redis_url=settings.REDIS_BUDGET_URL,
        origin=origin,
        member=member,
        limits=LimitsPart(**{"per_second": None, **limits}),
        book=book,
    )
    try:
        yield budget
    finally:
        await budget.close()


async def send(budget: Budget, count: int, times: list[float]) -> None:
    for _ in range(count):
        if not await budget.wait_for_slot():
            return
        times.append(time.monotonic())


def peak(times: list[float], seconds: float) -> int:
    """The most sends in any [t, t + seconds)."""
    times = sorted(times)
    return max(bisect.bisect_left(times, at + seconds) - number for number, at in enumerate(times))


async def test_a_send_that_was_free_to_leave_has_no_slot_to_give_back(origin: str):
    async with open_budget(origin) as budget:
        assert await budget.wait_for_slot()
        assert budget.charged
        _Leave(budget).give_back()
        assert not budget._news.unused


async def test_all_members_share_one_rate_and_the_smallest_limit_counts(origin: str):
    times: list[float] = []
    async with (
        open_budget(origin, "run-1", per_second=30) as one,
        open_budget(origin, "run-1", per_second=30) as same_run,
        open_budget(origin, "run-2", per_second=200) as other,
    ):
        await send(one, 1, times)
        await asyncio.gather(*(send(each, 22, times) for each in (one, same_run, other)))
    assert len(times) == 67
    assert peak(times, 1.0) <= 30


async def test_a_window_is_never_exceeded_and_what_it_allows_goes_at_once(origin: str):
    times: list[float] = []
    async with open_budget(origin, window={"requests": 7, "seconds": 0.8}) as budget:
        await asyncio.gather(*(send(budget, 5, times) for _ in range(4)))
    assert len(times) == 20
    assert peak(times, 0.8) == 7


async def test_after_a_batch_there_is_a_pause(origin: str):
    times: list[float] = []
    async with (
        open_budget(origin, "run-1", batch={"requests": 4, "pause_seconds": 0.4}) as one,
        open_budget(origin, "run-2", per_second=100) as other,
    ):
        await send(one, 1, times)
        await asyncio.gather(send(one, 6, times), send(other, 6, times))
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(times))]
    groups = [
        1 + len(list(group))
        for is_pause, group in itertools.groupby(gap >= 0.4 for gap in gaps)
        if not is_pause
    ]
    assert max(groups) == 4


async def test_a_window_and_a_rate_hold_together(origin: str):
    times: list[float] = []
    async with open_budget(
        origin, per_second=40, window={"requests": 10, "seconds": 1.0}
    ) as budget:
        await send(budget, 25, times)
    assert peak(times, 1.0) <= 10
    assert peak(times, 0.2 - TOLERANCE_SECONDS) <= 8  # one may be so late, the next one in time


async def test_a_far_slot_parks_the_run_instead_of_holding_the_worker(origin: str):
    async with open_budget(origin, per_second=0.01) as budget:
        assert await budget.wait_for_slot()
        assert not await budget.wait_for_slot()
    assert budget.is_closed
    assert budget.parked is not None
    assert budget.parked.reason == "rate"
    assert 100 <= budget.parked.until - time.time() <= 106


async def test_a_used_up_quota_parks_until_its_next_period(origin: str):
    times: list[float] = []
    book = FakeBook(quota_left=5)
    async with open_budget(origin, book=book, quota={"requests": 5, "per": "day"}) as budget:
        await send(budget, 9, times)
    assert len(times) == 5
    assert budget.parked == Parked(book.ends_at, "quota", quota=(5, "day"))


async def test_slots_that_were_not_used_are_not_charged_to_the_quota(origin: str):
    book = FakeBook(quota_left=2)
    quota = {"requests": 2, "per": "day"}
    async with open_budget(origin, book=book, quota=quota) as first:
        assert await first.wait_for_slot()  # two were leased
    async with open_budget(origin, book=book, quota=quota) as second:
        assert await second.wait_for_slot()
        assert not await second.wait_for_slot()


async def test_a_lost_redis_is_taken_for_a_used_one(origin: str, client: redis.Redis):
    book, times = FakeBook(), list[float]()
    window = {"requests": 5, "seconds": 1.5}
    async with open_budget(origin, book=book, window=window) as budget:
        await send(budget, 5, times)
        client.delete(*keys_of(origin))
        await send(budget, 5, times)
    assert len(times) == 10
    assert peak(times, 1.5) == 5


async def test_a_redis_that_came_back_with_an_old_state_is_not_trusted(
    origin: str, client: redis.Redis
):
    book, times = FakeBook(), list[float]()
    async with open_budget(origin, book=book, per_second=50) as budget:
        await send(budget, 5, times)
        client.hset(keys_of(origin)[0], "server", "another process")
        lost_at = time.monotonic()
        await send(budget, 5 + 5, times)
    later = [at for at in times if at > lost_at]
    # What was leased before the loss may still be used; then a second is left for it.
    assert max(b - a for a, b in itertools.pairwise(later)) >= 1.0


@pytest.mark.parametrize(
    ("most", "limits"),
    [(20, {"per_second": 20}), (5, {"window": {"requests": 5, "seconds": 1}})],
)
async def test_a_clock_that_is_set_back_stops_no_run(
    origin: str, client: redis.Redis, most: int, limits: dict[str, Any]
):
    times: list[float] = []
    async with open_budget(origin, **limits) as budget:
        await send(budget, 5, times)
        move_ahead(client, origin, seconds=3600)
        began = time.monotonic()
        await send(budget, 10, times)
        assert budget.parked is None
    assert len(times) == 15
    assert times[-1] - began < 6
    assert peak(times, 1) <= most


def move_ahead(client: redis.Redis, origin: str, *, seconds: int) -> None:
    """What a clock that was ahead by so much would have left."""
    state, _, log = keys_of(origin)
    for name in ("last", "since", "held"):
        client.hincrby(state, name, seconds * 1_000_000)
    for index, at in enumerate(client.lrange(log, 0, -1)):
        client.lset(log, index, str(int(at) + seconds * 1_000_000))


async def test_a_loss_of_the_quotas_count_does_not_give_it_back(origin: str, client: redis.Redis):
    book, times = FakeBook(quota_left=6), list[float]()
    async with open_budget(origin, book=book, quota={"requests": 6, "per": "month"}) as budget:
        await send(budget, 3, times)
        client.delete(*keys_of(origin))
        await send(budget, 9, times)
    assert len(times) <= 6
    assert budget.parked


async def test_limits_of_waiting_runs_are_known_after_a_loss(origin: str, client: redis.Redis):
    book, times = FakeBook(), list[float]()
    book.active = {"run-7": LimitsPart(per_second=4)}  # it waits, and has no slice
    async with open_budget(origin, book=book, per_second=100) as budget:
        await send(budget, 2, times)
        client.delete(*keys_of(origin))
        await send(budget, 4, times)
    assert peak(times, 1.0) <= 4


async def test_hosts_do_not_disturb_each_other(origin: str):
    slow, fast = list[float](), list[float]()
    async with (
        open_budget(origin + "1", per_second=5) as one,
        open_budget(origin + "2", per_second=200) as other,
    ):
        await asyncio.gather(send(one, 4, slow), send(other, 100, fast))
    assert peak(slow, 1.0) <= 5
    assert fast[-1] < slow[-1] + 1.0


async def test_a_run_without_a_limit_keeps_that_of_another_run_at_the_host(origin: str):
    times: list[float] = []
    async with (
        open_budget(origin, "limited", per_second=10) as limited,
        open_budget(origin, "free") as free,
    ):
        await send(limited, 1, times)
        await send(free, 12, times)
        assert peak(times, 1.0) <= 10
        forget_member(redis_url=settings.REDIS_BUDGET_URL, origin=origin, member="limited")
        await send(free, 5, [])
        assert not free._is_limited_by_others


async def test_a_new_run_without_a_limit_sends_nothing_before_it_has_heard_of_others(origin: str):
    times: list[float] = []
    async with (
        open_budget(origin, "limited", per_second=5) as limited,
        open_budget(origin, "free") as free,
    ):
        await send(limited, 1, times)
        await asyncio.gather(*(send(free, 1, times) for _ in range(8)))
    assert peak(times, 1.0) <= 5


async def test_a_run_without_a_limit_tells_of_those_that_wait(origin: str, client: redis.Redis):
    times: list[float] = []
    book = FakeBook()
    book.active = {"waiting": LimitsPart(per_second=5)}
    async with open_budget(origin, "free", book=book) as free:
        await send(free, 8, times)
    assert peak(times, 1.0) <= 5


async def test_a_redis_that_does_not_answer_is_waited_for_once_not_by_each_sender(origin: str):
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1")
    port = silent.sockets[0].getsockname()[1]
    budget = Budget(
        redis_url=f"redis://127.0.0.1:{port}/0?socket_timeout=0.5",
        origin=origin,
        member="run-1",
        limits=LimitsPart(per_second=None),
    )
    began = time.monotonic()
    try:
        assert all(await asyncio.gather(*(budget.wait_for_slot() for _ in range(20))))
        assert time.monotonic() - began < 5  # twenty of them, one after the other: 10 s
    finally:
        await budget.close()
        for writer in accepted:
            writer.close()
        silent.close()


async def test_a_slot_that_a_held_up_loop_comes_late_to_is_given_up(origin: str):
    times: list[float] = []
    async with open_budget(origin, per_second=5) as budget:
        await send(budget, 2, times)
        waiting = asyncio.create_task(send(budget, 6, times))
        await asyncio.sleep(0.1)
        time.sleep(0.25)
        await waiting
    assert peak(times, 1.0) <= 5


async def test_a_slot_is_not_given_up_for_a_delay_that_its_slow_rate_bears(origin: str):
    async with open_budget(origin, per_second=0.01) as budget:
        waiting = asyncio.create_task(budget.wait_for_slot())
        await asyncio.sleep(0)
        time.sleep(0.2)
        assert await waiting


async def test_a_first_limit_waits_until_runs_without_one_have_heard_of_it(origin: str):
    times: list[float] = []
    async with (
        open_budget(origin, "free") as free,
        open_budget(origin, "limited", per_second=10) as limited,
    ):

        async def flood() -> None:
            while len(limited_times) < 3:
                if await free.wait_for_slot():
                    times.append(time.monotonic())
                await asyncio.sleep(0.002)

        limited_times: list[float] = []
        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.05)
        await send(limited, 3, limited_times)
        await flooding
    since = [at for at in (*times, *limited_times) if at > limited_times[0] - 0.5]
    assert peak(since, 1.0) <= 10


async def test_a_limit_that_is_taken_back_lets_waiting_senders_go(origin: str):
    pace = Pace(configured=None, rate=2.0)
    budget = Budget(
        redis_url=settings.REDIS_BUDGET_URL,
        origin=origin,
        member="run-1",
        limits=LimitsPart(per_second=None),
        pace=pace,
    )
    waiting = [asyncio.create_task(budget.wait_for_slot()) for _ in range(5)]
    await asyncio.sleep(0.1)
    pace.adopt(Control(at=time.time()))
    budget.heed_pace()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [True] * 5
    await budget.close()


async def test_nothing_goes_out_any_more_once_the_budget_is_shut(origin: str):
    async with open_budget(origin, per_second=0.5) as slow:
        assert await slow.wait_for_slot()
        waiting = asyncio.create_task(slow.wait_for_slot())
        await asyncio.sleep(0.05)
        slow.shut()
        assert await asyncio.wait_for(waiting, 3) is False


async def test_what_one_slice_learns_binds_the_others_of_its_run(origin: str):
    paces = [Pace(configured=100) for _ in range(2)]
    one, other = (
        Budget(
            redis_url=settings.REDIS_BUDGET_URL,
            origin=origin,
            member="run-1",
            limits=LimitsPart(per_second=100),
            pace=pace,
        )
        for pace in paces
    )
    assert await one.wait_for_slot()
    paces[0].adopt(Control(at=time.time(), rate=8.0))
    one.heed_pace()
    assert await one.wait_for_slot()
    times: list[float] = []
    await send(other, 12, times)
    assert paces[1].rate == 8.0
    assert peak(times, 1.0) <= 8
    await one.close()
    await other.close()


async def test_a_delay_that_the_host_asked_for_holds_all_runs_there(origin: str):
    pace = Pace(configured=50)
    one = Budget(
        redis_url=settings.REDIS_BUDGET_URL,
        origin=origin,
        member="run-1",
        limits=LimitsPart(per_second=50),
        pace=pace,
    )
    async with open_budget(origin, "run-2", per_second=50) as other:
        assert await one.wait_for_slot()
        held_until = time.time() + 1.5
        pace.hold_until(held_until)
        await one._call(want=0, used_until=None)
        assert await other.wait_for_slot()
        assert time.time() >= held_until
    await one.close()


def test_the_reserve_is_a_share_but_never_more_than_a_network_delays():
    limits = LimitsPart.model_validate(
        {
            "per_second": 0.5,
            "window": {"requests": 3, "seconds": 60},
            "batch": {"requests": 2, "pause_seconds": 1},
        }
    )
    assert json.loads(describe_limits(limits)) == {
        "every": 2_120_000,
        "window": [3, 60_500_000],
        "batch": [2, 1_060_000],
    }

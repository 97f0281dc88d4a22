"""A slice: one asyncio loop and one aiohttp session that work on a run's due rows for a while.

    ledger ─claim→ bounded queue → `concurrency` senders under the budget → answers ─flush→ ledger

A row that is to be sent again goes back through the ledger with a due time: waiting holds neither a
connection nor a sender, and a worker that dies in the meantime loses nothing. Everything that
touches the database runs in one thread of its own, because Django's connections are per thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import ParamSpec, TypeVar

import uvloop
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction
from django.utils import timezone
from redis.exceptions import RedisError
from yarl import URL

from ingest import ledger, stopping
from ingest.configuration import SourceConfiguration, origin_of
from ingest.errors import LeaseLost
from ingest.fetch.answers import Answer, Reply, Verdict
from ingest.fetch.backoff import DELAYING_STATUS, jittered_wait, read_retry_after
from ingest.fetch.budget import Budget, Parked
from ingest.fetch.classify import Classifier, is_repeated
from ingest.fetch.guard import AddressGuard
from ingest.fetch.keys import KeyRing
from ingest.fetch.pace import Pace
from ingest.fetch.rotation import Rotation
from ingest.fetch.signs import Signs, SignWatch
from ingest.fetch.transport import Transport
from ingest.hosts import HostBook, name_member, name_origin
from ingest.ledger import Claim
from ingest.models import Slice
from ingest.outcomes import Outcome
from ingest.plans import address_of, prepare_request
from ingest.secrets import Redactor

T = TypeVar("T")
P = ParamSpec("P")

FLUSH_ANSWERS = 500
# Answers may hold many records: SQLite's one writer must not be kept for long.
FLUSH_RECORDS = 5_000
FLUSH_BYTES = 8_000_000
FLUSH_SECONDS = 0.5
# The database counts its rows anew after so many answers, and each time that they have doubled.
STATISTICS_ANSWERS = 5_000
# Nothing more is sent while answers that weigh this much wait to be written.
MAX_WAITING_BYTES = 64_000_000
# Of each record beside its text.
RECORD_BYTES = 1_000
MAX_QUEUED = 1_000
LARGE_BODY_BYTES = 200_000
# Beyond it the wait is `cap_seconds` anyway, and the column ends at 32,767.
MAX_BACKOFF_STEP = 60
IDLE_SECONDS = 0.05
# Redirects to still more hosts take their slots from the run's own budget.
MAX_FURTHER_HOSTS = 20
# After each statement the ledger's thread waits this long for a loop that has much to do.
SWITCH_SECONDS = 0.001
# How often the lease is renewed, and the slices of a run hear of each other, without a flush.
REPORT_SECONDS = 1.0
# A slice stays for rows that are due within this time; for later ones it frees its worker.
LINGER_SECONDS = 2.0
# How long answers that are under way are still waited for once the source has shut us out.
BLOCKED_PATIENCE_SECONDS = 5.0
# The same for a worker that was asked to stop: whoever asked kills it after a few seconds more.
STOPPING_PATIENCE_SECONDS = 2.0
# How long a task that was cancelled may take before it is cancelled once more.
END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What a slice learns when it reports: the signs that all slices of the run have seen, whether
    it is the only one, and whether it had better make room for a run that waits for a worker."""

    signs: Signs
    is_alone: bool
    is_turn_over: bool


@dataclass(frozen=True, slots=True)
class SliceTask:
    """What a slice works on.

    `share` hands over what the slice saw until the given time (epoch seconds). It is called in the
    database thread, inside a transaction that has locked the run.
    """

    held: Slice
    source_id: int
    configuration: SourceConfiguration
    redact: Redactor
    shared: Shared
    is_sweep: bool
    deadline_at: datetime
    share: Callable[[Signs, float], Shared]


@dataclass(slots=True)
class SliceResult:
    """What a slice met that it could not put into the run's signs."""

    is_lease_lost: bool = False
    is_budget_down: bool = False
    parked: Parked | None = None


def work_on_slice(task: SliceTask) -> SliceResult:
    """Runs one slice to its end. The caller closes the lease."""
    usual_seconds = sys.getswitchinterval()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger") as database:
        try:
            sys.setswitchinterval(SWITCH_SECONDS)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_SliceRunner(task, database).run())
        finally:
            sys.setswitchinterval(usual_seconds)
            database.submit(connections.close_all).result()


class _SendGivenUp(Exception):
    """A send under way may not leave any more, that of a redirect or of a slow connection."""


class _Leave:
    """When a send was free to leave, by which budget."""

    def __init__(self, budget: Budget) -> None:
        self.renew(budget)

    def renew(self, budget: Budget) -> None:
        self.budget = budget
        self._at = time.monotonic()
        self._periods = () if budget.is_free else budget.charged

    def give_back(self) -> None:
        """The send did not leave then: it is not to count for a quota twice."""
        self.budget.give_back(1, self._periods)

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self._at > self.budget.patience_seconds


class _SliceRunner:
    def __init__(self, task: SliceTask, database: ThreadPoolExecutor) -> None:
        limits = task.configuration.limits
        self.task = task
        self.database = database
        self.result = SliceResult()
        signs = task.shared.signs
        self.watch = SignWatch(task.configuration, signs, is_alone=task.shared.is_alone)
        self.classifier = Classifier.of(task.configuration, redact=task.redact)
        self.rotation = Rotation(self.watch)
        self.keys = KeyRing(len(task.configuration.request.api_key), self.rotation)
        self.random = random.Random()  # noqa: S311 - jitter, not a secret
        self.capacity = queue_size(limits.per_second, limits.concurrency)
        self.queue: asyncio.Queue[Claim] = asyncio.Queue(maxsize=self.capacity)
        self.answers: list[Answer] = []
        self.waiting_bytes = 0
        self.has_batch = asyncio.Event()
        self.is_probing = self.watch.is_host_down
        self.in_flight = 0
        self.written = 0
        self.measured_at = STATISTICS_ANSWERS / 2
        self.flushing = asyncio.Lock()
        self.reading = asyncio.Lock()
        self.ends_at = time.monotonic() + settings.SLICE_SECONDS
        self.lease_ends_at = 0.0  # the first claim renews it
        self.pace = Pace(
            configured=limits.per_second,
            rate=signs.rate,
            held_until=signs.held_until,
        )
        self.origin = name_origin(task.configuration.request.origin)
        self.budget = self._open_budget(self.origin, self.pace)
        # Of the hosts that redirects lead to.
        self.further_budgets: dict[str, Budget] = {}

    def _open_budget(self, origin: str, pace: Pace | None = None) -> Budget:
        return Budget(
            redis_url=settings.REDIS_BUDGET_URL,
            origin=origin,
            member=name_member(self.task.held.run_id),
            limits=self.task.configuration.limits,
            book=HostBook(origin, self._in_database),
            pace=pace,
        )

    def _choose_budget(self, target: URL) -> Budget:
        """That of the host that a redirect leads to: what it counts is what it gets."""
        origin = name_origin(origin_of(str(target)))
        known = self.further_budgets.get(origin)
        if known is not None:
            return known
        if origin == self.origin or len(self.further_budgets) >= MAX_FURTHER_HOSTS:
            return self.budget
        opened = self.further_budgets[origin] = self._open_budget(origin)
        if self.budget.is_shut:
            opened.shut()
        return opened

    def _shut_budgets(self) -> None:
        for each in (self.budget, *self.further_budgets.values()):
            each.shut()

    async def run(self) -> SliceResult:
        part = self.task.configuration.request
        guard = AddressGuard(settings.ALLOW_PRIVATE_UPSTREAMS, settings.ALLOWED_UPSTREAMS)
        limits = self.task.configuration.limits
        async with Transport(
            part,
            guard=guard,
            concurrency=limits.concurrency,
            max_body_bytes=limits.max_body_bytes,
            rotation=self.rotation,
        ) as self.transport:
            workers = [asyncio.create_task(self._send_rows()) for _ in range(limits.concurrency)]
            flusher = asyncio.create_task(self._flush_regularly())
            heart = asyncio.create_task(self._renew_regularly())
            try:
                await self._until_first_failure(self._feed_and_drain(), workers, flusher, heart)
            except LeaseLost:
                self.result.is_lease_lost = True
            except Exception as error:
                if not isinstance(error, OperationalError | InterfaceError):
                    # What was answered is not asked for again because something else broke.
                    with contextlib.suppress(Exception):
                        await self._flush_rest()
                raise
            finally:
                await _end_tasks({*workers, flusher, heart})
                for budget in (self.budget, *self.further_budgets.values()):
                    await budget.close()
        self.result.parked = self.budget.parked or self._park_while_held()
        return self.result

    def _park_while_held(self) -> Parked | None:
        """What another run at the host was told there; of its own the run knows by its signs."""
        until = self.pace.held_until
        if self._is_held_long() and until > self.watch.signs.held_until:
            return Parked(until, "hold")
        return None

    async def _until_first_failure(
        self,
        main: Awaitable[None],
        workers: list[asyncio.Task[None]],
        *others: asyncio.Task[None],
    ) -> None:
        """Awaits `main`, or raises what a helper task raised meanwhile."""
        first = asyncio.ensure_future(main)
        try:
            done, _ = await asyncio.wait(
                {first, *workers, *others}, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                each.result()
        finally:
            await _end_tasks({first})

    async def _in_database(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.database, lambda: function(*args, **kwargs))

    async def _under_lease(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what renews the lease, or raises LeaseLost."""
        began = time.monotonic()
        result = await self._in_database(function, *args, **kwargs)
        self.lease_ends_at = began + settings.LEASE_SECONDS
        return result

    # ---- ledger → queue

    async def _feed_and_drain(self) -> None:
        await self._feed()
        self.budget.is_closed = True  # unsent rows go back with the lease
        ended_at = time.monotonic()
        while self.in_flight and time.monotonic() - ended_at < self._patience_seconds():
            if timezone.now() >= self.task.deadline_at or stopping.is_asked_to_stop():
                self._shut_budgets()
            await asyncio.sleep(IDLE_SECONDS)
        await self._flush_rest()

    def _patience_seconds(self) -> float:
        """How long answers are waited for once nothing new is sent."""
        if stopping.is_asked_to_stop():
            return STOPPING_PATIENCE_SECONDS
        return BLOCKED_PATIENCE_SECONDS if self.watch.block_reason else float("inf")

    async def _feed(self) -> None:
        while self._may_go_on():
            wanted = self._wanted_rows()
            if not wanted:
                await asyncio.sleep(IDLE_SECONDS / 5)
                continue
            rows = await self._under_lease(ledger.claim_requests, self.task.held, limit=wanted)
            for row in rows:
                self.queue.put_nowait(row)
            if not rows and not await self._wait_for_due_rows():
                return

    def _may_go_on(self) -> bool:
        return (
            time.monotonic() < self.ends_at
            and not stopping.is_asked_to_stop()
            and timezone.now() < self.task.deadline_at
            and not self.budget.is_closed
            and not self.watch.is_given_up
            and not self._is_probe_far()
            and not self._is_held_long()
        )

    def _wanted_rows(self) -> int:
        if self.watch.is_host_down:
            is_quiet = not (self.in_flight or self.queue.qsize() or self.answers)
            return 1 if is_quiet and time.time() >= self.watch.signs.probe_after else 0
        room = self.capacity - self.queue.qsize()
        return room if room * 2 >= self.capacity else 0

    def _is_probe_far(self) -> bool:
        if not self.watch.is_host_down or self.in_flight or self.answers:
            return False
        wait = self.watch.signs.probe_after - time.time()
        return wait > LINGER_SECONDS

    def _is_held_long(self) -> bool:
        """The host asked for a delay that is longer than a worker should wait for it."""
        return self.pace.held_until - time.time() > LINGER_SECONDS

    async def _wait_for_due_rows(self) -> bool:
        """Waits a moment for rows to become due; False when the slice had better end."""
        if self.in_flight or self.queue.qsize():
            await asyncio.sleep(IDLE_SECONDS)
            return True
        await self._flush_rest()
        next_due = await self._in_database(ledger.next_due_at, self.task.held.run_id)
        if next_due is None:
            return False
        wait = (next_due - timezone.now()).total_seconds()
        if wait > LINGER_SECONDS:
            return False
        await asyncio.sleep(min(max(wait, 0.0), IDLE_SECONDS * 4))
        return True

    # ---- queue → upstream → answers

    async def _send_rows(self) -> None:
        while True:
            row = await self.queue.get()
            # Counted before the wait for a slot, so that the slice does not end under it.
            self.in_flight += 1
            try:
                if self._may_leave_at_once() or await self._wait_for_leave():
                    await self._send_row(row)
            except _SendGivenUp:
                pass  # the source is shut, or the time is over: the row stays as it was
            except RedisError:
                # What is under way ends and is written; the rest goes back with the lease.
                self.result.is_budget_down = True
                self.budget.is_closed = True
            finally:
                self.in_flight -= 1

    async def _send_row(self, row: Claim) -> None:
        configuration = self.task.configuration
        turn = self.keys.choose(row.position + row.attempts)
        request = prepare_request(configuration, row.key, turn=turn)
        sent_at = time.time()
        leave = _Leave(self.budget)
        reply = await self.transport.send(
            request,
            before_hop=partial(self._wait_for_hop, leave),
            after_connect=partial(self._wait_if_late, leave),
        )
        verdict = await self._classify(reply)
        named_wait = _named_wait(reply)
        is_of_key = self.keys.note(
            turn, verdict, reply.status, since=sent_at, named_wait=named_wait
        )
        if is_of_key and self.keys.is_resting(turn):
            named_wait = None  # the row goes out with another key
        else:
            self._heed_pace(reply, verdict, sent_at=sent_at, named_wait=named_wait)
        is_telling = not is_of_key and not self._is_of_row(row, reply, verdict)
        self._heed_signs(row, reply, verdict, sent_at=sent_at, is_telling=is_telling)
        answer = self._answer(row, reply, verdict, named_wait=named_wait)
        self.answers.append(answer)
        self.waiting_bytes += answer.weight_bytes
        if self._has_full_batch():
            self.has_batch.set()

    def _may_leave_at_once(self) -> bool:
        """What `_wait_for_leave` would say, where it need not wait: mostly, without limits."""
        return (
            self.pace.held_until <= time.time()
            and self.waiting_bytes < MAX_WAITING_BYTES
            and time.monotonic() < self.lease_ends_at
            and self.budget.take_at_once()
        )

    async def _wait_for_leave(self) -> bool:
        """Returns when the next send may leave; False when the slice ends first.

        Nothing is sent beyond the lease: a worker that was paused, or whose database is away, does
        not know whether somebody else works on its rows by now.
        """
        await self._wait_while_held()
        while self.waiting_bytes >= MAX_WAITING_BYTES and not self.budget.is_closed:
            await asyncio.sleep(IDLE_SECONDS / 5)
        while await self.budget.wait_for_slot():
            if self.pace.held_until > time.time():  # heard of while the slot was waited for
                await self._wait_while_held()
                continue
            if time.monotonic() < self.lease_ends_at:
                return True
            while time.monotonic() >= self.lease_ends_at:
                await asyncio.sleep(IDLE_SECONDS)
        return False

    async def _wait_for_hop(self, leave: _Leave, target: URL) -> None:
        await self._wait_under_way(leave, self._choose_budget(target))

    async def _wait_under_way(self, leave: _Leave, budget: Budget) -> None:
        is_free = await budget.wait_for_slot(is_under_way=True)
        if budget.parked and not self.budget.parked:
            # The host that a redirect leads to takes nothing for long: no row gets any further.
            self.budget.parked = budget.parked
            self.budget.is_closed = True
        if not is_free or time.monotonic() >= self.lease_ends_at:
            raise _SendGivenUp
        leave.renew(budget)

    def _wait_if_late(self, leave: _Leave) -> Awaitable[None] | None:
        """Opening a connection takes several round trips; by then the slot may be too old."""
        if not leave.is_late:
            return None
        leave.give_back()
        return self._wait_under_way(leave, leave.budget)

    async def _classify(self, reply: Reply) -> Verdict:
        if len(reply.body) < LARGE_BODY_BYTES:
            return self.classifier.classify(reply)
        # Seconds of work, during which the lease must be renewed and other answers read. One at a
        # time: what a large body holds takes many times its memory.
        async with self.reading:
            return await asyncio.to_thread(self.classifier.classify, reply)

    async def _wait_while_held(self) -> None:
        """Waits out a delay that the whole host has asked for."""
        while not self.budget.is_closed:
            wait = self.pace.held_until - time.time()
            if wait <= 0:
                return
            await asyncio.sleep(min(wait, IDLE_SECONDS * 4))

    def _heed_pace(
        self, reply: Reply, verdict: Verdict, *, sent_at: float, named_wait: float | None
    ) -> None:
        """Learns the rate that the host bears."""
        now = time.time()
        self.pace.note(
            sent_at=sent_at,
            now=now,
            is_refused=verdict.outcome == Outcome.REFUSED,
            named_wait=named_wait,
            cap=self.task.configuration.retry.cap_seconds,
        )
        self.watch.note_pace(self.pace.rate, self.pace.held_until, at=now)
        self.budget.heed_pace()

    def _heed_signs(
        self, row: Claim, reply: Reply, verdict: Verdict, *, sent_at: float, is_telling: bool
    ) -> None:
        """Stops what is queued once the source is shut or its host is down."""
        now = time.time()
        self.watch.note(
            verdict, reply.status, sent_at=sent_at, at=now, key=row.key, is_telling=is_telling
        )
        self._stop_where_shut()

    def _is_of_row(self, row: Claim, reply: Reply, verdict: Verdict) -> bool:
        """Whether a bad answer is known to be about its row: it was answered before, and the source
        answers others well. Near the end of a pass and in a sweep all that is left are such rows,
        which are bad in a row without telling anything; their attempts bound them."""
        if not row.attempts or not self.watch.signs.has_good:
            return False
        if verdict.outcome == Outcome.REFUSED:
            return False  # it is about who asks, whatever for
        is_bounded = self.task.is_sweep or self.task.configuration.retry.attempts is not None
        # A host that gives no connection gives none to any row.
        return is_bounded and (reply.status is not None or verdict.error == "timeout")

    def _adopt(self, shared: Shared) -> None:
        """Goes on with what all slices of the run know together."""
        self.watch.adopt(shared.signs, is_alone=shared.is_alone)
        signs = self.watch.signs
        # The learned rate comes with the leases, which are sooner.
        self.pace.hold_until(signs.held_until)
        self.budget.heed_pace()
        if shared.is_turn_over:
            self.ends_at = min(self.ends_at, time.monotonic())
        self._stop_where_shut()

    def _stop_where_shut(self) -> None:
        self.is_probing = self.is_probing and self.watch.is_host_down
        if self.watch.block_reason or (self.watch.is_host_down and not self.is_probing):
            self._shut_budgets()

    def _answer(
        self, row: Claim, reply: Reply, verdict: Verdict, *, named_wait: float | None
    ) -> Answer:
        now = timezone.now()
        due_at, backoff_step = self._when_again(row, reply, verdict, now, wait=named_wait)
        return Answer(
            request_id=row.pk,
            run_id=row.run_id,
            position=row.position,
            key=row.key,
            url=self.task.redact(address_of(self.task.configuration, row.key))
            if verdict.outcome != Outcome.DELIVERED
            else "",
            attempts=row.attempts + 1,
            pass_attempts=row.pass_attempts + 1,
            backoff_step=backoff_step,
            verdict=verdict,
            status_code=reply.status,
            latency_ms=round(reply.latency_ms, 3),
            answered_at=now,
            due_at=due_at,
            weight_bytes=len(reply.body) + RECORD_BYTES * len(verdict.records),
        )

    def _when_again(
        self, row: Claim, reply: Reply, verdict: Verdict, now: datetime, *, wait: float | None
    ) -> tuple[datetime | None, int]:
        """(when this pass sends the row again, or None; the row's backoff step after that).

        `wait`: the seconds that the answer named.
        """
        retry = self.task.configuration.retry
        sends = row.pass_attempts + 1
        step = row.backoff_step
        if (
            self.task.is_sweep
            or not is_repeated(verdict, reply.status)
            or (retry.attempts is not None and sends >= retry.attempts)
        ):
            return None, step
        if wait is None:
            # Only a wait that the upstream did not name makes the next one longer.
            step = min(step + 1, MAX_BACKOFF_STEP)
            wait = jittered_wait(
                step,
                base_seconds=retry.base_seconds,
                cap_seconds=retry.cap_seconds,
                random_source=self.random,
            )
            if verdict.outcome == Outcome.REFUSED:
                wait = max(wait, min(1.0, retry.cap_seconds))
        remaining = (self.task.deadline_at - now).total_seconds()
        return (now + timedelta(seconds=wait), step) if wait < remaining else (None, step)

    # ---- answers → ledger

    async def _flush_regularly(self) -> None:
        while True:
            try:
                # Not wait_for: that of Python 3.11 swallows a cancellation that comes with a batch.
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.has_batch.wait()
            except TimeoutError:
                await self._flush_rest()
            else:
                self.has_batch.clear()
                # A flush of few answers takes half as long as a full one.
                await self._flush_rest(only_full=True)

    def _has_full_batch(self) -> bool:
        return len(self.answers) >= FLUSH_ANSWERS or self.waiting_bytes >= FLUSH_BYTES

    async def _flush_rest(self, *, only_full: bool = False) -> None:
        async with self.flushing:
            while self._has_full_batch() or (self.answers and not only_full):
                batch = next_batch(self.answers)
                self._adopt(await self._under_lease(self._flush, batch, self._take_news()))
                del self.answers[: len(batch)]
                self.waiting_bytes -= sum(answer.weight_bytes for answer in batch)
                self.written += len(batch)
                if self.written >= 2 * self.measured_at:
                    self.measured_at = self.written
                    await self._in_database(ledger.refresh_statistics)

    def _take_news(self) -> Callable[[], Shared]:
        return partial(self.task.share, self.watch.take_news(), time.time())

    def _flush(self, batch: list[Answer], share: Callable[[], Shared]) -> Shared:
        return ledger.flush_answers(
            self.task.held, batch, source_id=self.task.source_id, share=share
        )

    async def _renew_regularly(self) -> None:
        while True:
            await asyncio.sleep(min(REPORT_SECONDS, settings.LEASE_SECONDS / 3))
            async with self.flushing:  # reports reach the run in the order of their times
                self._adopt(await self._under_lease(self._report, self._take_news()))

    def _report(self, share: Callable[[], Shared]) -> Shared:
        with transaction.atomic():
            ledger.lock_run(self.task.held.run_id)
            ledger.renew_slice(self.task.held)
            return share()


async def _end_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels until all have ended: what a task waits for in a library may swallow a cancellation
    that comes at the same moment as its answer."""
    left = tasks
    while left:
        for each in left:
            each.cancel()
        _, left = await asyncio.wait(left, timeout=END_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


def _named_wait(reply: Reply) -> float | None:
    if reply.status not in DELAYING_STATUS:
        return None
    return read_retry_after(reply.retry_after, now=timezone.now())


def next_batch(answers: Sequence[Answer]) -> list[Answer]:
    """The first answers, as many as one short transaction bears: one at least."""
    records = weight = 0
    for count, answer in enumerate(answers[:FLUSH_ANSWERS]):
        records += len(answer.verdict.records)
        weight += answer.weight_bytes
        if count and (records > FLUSH_RECORDS or weight > FLUSH_BYTES):
            return list(answers[:count])
    return list(answers[:FLUSH_ANSWERS])


def queue_size(per_second: float | None, concurrency: int) -> int:
    """Rows to keep at hand: about a second of work, so that a crash re-does little."""
    if per_second is None:
        return MAX_QUEUED
    return int(min(MAX_QUEUED, max(2 * concurrency, per_second)))

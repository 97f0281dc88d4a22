"""A portal between an upstream and a database that can all be hurt one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from celery import Celery
from django.conf import settings

from ingest.outcomes import FINAL_STATES
from portal.config import BROKER_DB, BUDGETS_DB, celery_redis_url, redis_url
from portal.processes.ownership import is_dead
from tests.faults.books import Database, check_books
from tests.faults.upstream import Service, Upstream, serve_upstream
from tests.live.stack import Stack, ask, run_stack, wait_for

# One of them works on the run; the other is there at once when that one is killed.
FETCHERS = ("worker-fetch", "standby")
# So short that a killed run goes on soon, but no machine that stalls for a second ends a lease; and
# slices so short that runs change hands by themselves.
LEASE_SECONDS, SLICE_SECONDS = 3, 2
WAKE_SECONDS = 0.3


@dataclass
class Site:
    """`stack` is the portal; `wake` does in fast motion what beat does every five seconds."""

    stack: Stack
    database: Database
    upstream: Upstream
    broker: Celery

    def heal(self) -> None:
        """Everything runs again, whatever the test before has left behind."""
        self.upstream.is_answering.set()
        for name in (*self.stack.programs, *FETCHERS):
            process = self.stack.processes.get(name)
            if process is not None and process.poll() is None:
                self.resume(name)
            elif name in FETCHERS:
                self.start_fetcher(name)
            else:
                self.stack.start(name)
        wait_for("Redis", self.has_redis)
        wait_for("the web server", self.is_answering)
        for (run,) in self.database.read("SELECT id FROM ingest_run WHERE finished_at IS NULL"):
            self.stack.api("POST", f"/api/runs/{run}/cancel/")
        self.expire("budget:*")  # to the budget, all services are one host

    def create_source(self, service: Service, **more: Any) -> None:
        """A source that waits little and gives up early."""
        parts: dict[str, Any] = {
            "records": {"body": None, "occurred_at": None, "weight": None},
            "limits": {"per_second": None, "concurrency": 20},
            "retry": {"attempts": 4, "base_seconds": 0.05, "cap_seconds": 0.3},
        }
        for part, values in more.items():
            parts[part] = {**parts.get(part, {}), **values}
        created = self.stack.create_source(
            service.name, self.upstream.url_of(service), count=service.count, **parts
        )
        assert created.status == 201, created.body

    def start_run(self, service: Service, **more: Any) -> int:
        """Plans a run of all rows of the service."""
        self.create_source(service, **more)
        return self.stack.start_run(service.name)

    def is_over(self, run: int) -> bool:
        return self.database.state_of(run) in FINAL_STATES

    def send(self, task: str, *arguments: Any, queue: str) -> None:
        """A message to a worker. Not while the broker is away."""
        self.broker.send_task(task, arguments, queue=queue, expires=30)

    def wake(self) -> None:
        self.send("ingest.tasks.scan_due", queue="maintenance")

    def expire(self, pattern: str) -> None:
        """Does at once what Redis does after a while: to locks of the dead, to budgets."""
        with self.connect_redis(BUDGETS_DB) as client:
            for name in client.scan_iter(pattern):
                client.delete(name)

    def count_messages(self, queue: str) -> int:
        with self.connect_redis(BROKER_DB) as client:
            return int(client.llen(queue))

    def is_answering(self) -> bool:
        try:
            return ask(self.stack.port, "/health").status == 200
        except OSError:
            return False

    def has_redis(self) -> bool:
        try:
            with self.connect_redis() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def connect_redis(self, number: int = 0) -> redis.Redis:
        return redis.Redis.from_url(redis_url(self.stack.config.redis_url, number))

    def wait_for(self, what: str, look: Callable[[], Any], *, timeout_seconds: float = 120) -> None:
        """`wait_for` with a beat in fast motion."""
        woken_at = 0.0

        def look_and_wake() -> Any:
            nonlocal woken_at
            if time.monotonic() - woken_at > WAKE_SECONDS:
                self.wake()
                woken_at = time.monotonic()
            return look()

        wait_for(what, look_and_wake, timeout_seconds=timeout_seconds)

    def wait_for_end(self, run: int, *, timeout_seconds: float = 120) -> None:
        self.wait_for(
            f"the end of run {run}", lambda: self.is_over(run), timeout_seconds=timeout_seconds
        )

    def check_books(self, run: int, service: Service, **more: Any) -> None:
        check_books(self.stack, self.database, run, service, **more)

    def wait_for_sends(self, service: Service, count: int) -> None:
        self.wait_for(f"{count} requests", lambda: service.sends >= count)

    def wait_for_quiet(self, service: Service) -> None:
        """Until the upstream is asked no more: for longer than a machine stalls."""
        seen: list[int] = []

        def look() -> bool:
            seen.append(service.sends)
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        wait_for("the end of sends", look)

    def wait_for_slice(self, run: int) -> str:
        """The fetcher that works on the run, as soon as one does."""
        found: list[str] = []

        def look() -> bool:
            name = self.find_fetcher(run)
            found.extend([name] if name else [])
            return bool(found)

        self.wait_for("a slice", look)
        return found[0]

    def describe(self) -> str:
        """For whoever has to find out why a test failed."""
        logs = [f"--- {name}\n{self.stack.read_log(name)}" for name in self.stack.processes]
        runs = self.database.read(
            "SELECT id, state, why_ended, planned_total, delivered_count, failed_count, signs"
            " FROM ingest_run ORDER BY id DESC LIMIT 3"
        )
        sends = {name: each.sends for name, each in self.upstream.services.items()}
        held = self.database.read("SELECT run_id, worker, expires_at FROM ingest_slice")
        return "\n".join([f"runs {runs}, slices {held}, sends {sends}", *logs])

    def find_fetcher(self, run: int) -> str | None:
        """The worker whose child holds a lease on the run."""
        rows = self.database.read("SELECT worker FROM ingest_slice WHERE run_id = %s", run)
        pids = {int(worker.rpartition(":")[2]) for (worker,) in rows}
        for name in self.fetchers:
            with contextlib.suppress(psutil.NoSuchProcess):
                if pids & {child.pid for child in self.stack.children_of(name)}:
                    return name
        return None

    def count_slices(self, run: int) -> int:
        return int(self.database.one("SELECT count(*) FROM ingest_slice WHERE run_id = %s", run))

    @property
    def fetchers(self) -> list[str]:
        programs = set(self.stack.programs) - {"worker-fetch"}
        return [name for name in self.stack.processes if name not in programs]

    def start_fetcher(self, name: str, **more: str) -> None:
        self.stack.start(name, like="" if name == "worker-fetch" else "worker-fetch", **more)

    @contextlib.contextmanager
    def one_fetcher(self, **more: str) -> Iterator[None]:
        """A single fetcher with an environment of its own, and none at the end."""
        for name in self.fetchers:
            self.stack.kill(name)
        self.start_fetcher("worker-fetch", **more)
        yield
        for name in self.fetchers:
            self.stack.kill(name)

    def kill_children(self, name: str) -> None:
        """kill -9 of the processes that do a worker's work; their parent makes new ones."""
        children = self.stack.children_of(name)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        # A signal is not a death yet: the next look at them must not find them at work.
        wait_for("the end of the killed", lambda: all(map(is_dead, children)))

    def pause(self, name: str) -> None:
        """SIGSTOP; a thread that waits for the disk still goes on for a moment."""
        group = [psutil.Process(self.stack.processes[name].pid), *self.stack.children_of(name)]
        self.signal_group(name, signal.SIGSTOP)
        wait_for(f"{name} to stand still", lambda: all(map(is_still, group)))

    def resume(self, name: str) -> None:
        self.signal_group(name, signal.SIGCONT)

    def signal_group(self, name: str, number: signal.Signals) -> None:
        os.killpg(self.stack.processes[name].pid, number)


def is_still(process: psutil.Process) -> bool:
    """Whether each thread of the process is stopped; also where there is none any more."""
    try:
        stats = [each.read_text() for each in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return is_dead(process)
    return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)


@contextlib.contextmanager
def open_site(data_dir: Path, **more: str) -> Iterator[Site]:
    quick = {"LEASE_SECONDS": str(LEASE_SECONDS), "SLICE_SECONDS": str(SLICE_SECONDS)}
    with serve_upstream() as upstream, run_stack(data_dir, **(quick | more)) as stack:
        broker = Celery(broker=celery_redis_url(stack.config.redis_url, BROKER_DB))
        broker.conf.task_queues = settings.CELERY_TASK_QUEUES
        broker.conf.broker_transport_options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
        broker.conf.task_publish_retry_policy = settings.CELERY_TASK_PUBLISH_RETRY_POLICY
        site = Site(stack, Database(stack.config.database_url), upstream, broker)
        stack.start("standby", like="worker-fetch")
        try:
            yield site
        finally:
            broker.close()

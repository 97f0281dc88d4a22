"""A portal of the benchmark's own: data folder, environment, processes.

Import it before anything of Django. Nothing that this machine's environment says about a portal
counts: a benchmark must never write into somebody's database. BENCH_DATABASE_URL and
BENCH_ELASTICSEARCH_URL name servers that the benchmark started itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import django
import psutil

from portal.config import BASE_DIR, Environment, read_config

DATA_DIR = Path(tempfile.mkdtemp(prefix="gleaner-bench-"))
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)
READY_SECONDS = 60.0


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _take_environment() -> None:
    own = {"PORTAL_DATA_DIR": str(DATA_DIR)}
    asked = Environment(own)
    read_config(asked)
    environment = os.environ  # noqa: TID251 - replaced, before anybody reads it
    for name in asked.variables:
        environment.pop(name, None)
        environment.pop(f"{name}_FILE", None)
    for name in ("DATABASE_URL", "ELASTICSEARCH_URL"):
        if url := environment.get(f"BENCH_{name}"):
            own[name] = url
    environment.update(own)
    environment.update(
        PORTAL_PORT=str(find_port()),
        PORTAL_ALLOW_PRIVATE_UPSTREAMS="1",
        DJANGO_SETTINGS_MODULE="portal.settings",
        PYTHONUNBUFFERED="1",
    )


_take_environment()
django.setup()


def migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


@contextlib.contextmanager
def run_programs(*names: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Runs programs of `make up` by name; Redis comes first. All are dead afterwards."""
    from django.conf import settings

    from portal.processes import list_programs

    programs = {program.name: program for program in list_programs(settings.GLEANER)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            with (DATA_DIR / f"{name}.log").open("ab") as log:
                running[name] = subprocess.Popen(
                    list(programs[name].command),
                    cwd=BASE_DIR,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if name == "redis":
                wait_for("Redis", _is_redis_up)
        queues = {"worker-fetch": "fetch", "worker-index": "index"}
        awaited = {queue for name, queue in queues.items() if name in running}
        wait_for("the workers", lambda: awaited <= _find_served_queues())
        yield running
    except BaseException:
        for name in running:
            sys.stderr.write(f"--- {name}\n{(DATA_DIR / f'{name}.log').read_text()[-2000:]}\n")
        raise
    finally:
        for process in reversed(running.values()):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its children: each program leads a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait(timeout=10)


def _is_redis_up() -> bool:
    import redis

    from portal import heartbeat

    try:
        heartbeat.ping()
    except redis.RedisError:
        return False
    return True


def _find_served_queues() -> set[str]:
    from portal import heartbeat

    return set(heartbeat.served_queues())


def wait_for(what: str, look: Callable[[], bool], *, seconds: float = READY_SECONDS) -> None:
    """Looks often, for what waits here is being timed; not so often that it slows that down."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def make_user() -> Any:
    """A member of the staff."""
    from django.contrib.auth import get_user_model

    user, _ = get_user_model().objects.get_or_create(
        email="bench@gleaner.invalid", defaults={"is_staff": True, "is_superuser": True}
    )
    return user


class MemoryWatch:
    """The greatest memory that any child of a worker has had, in MiB, while the block runs (Linux).

    `peak` is the resident size as the system keeps it. `private_peak` leaves out pages of files,
    such as those of the database, which SQLite maps and the system takes back when it needs them.
    """

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        self._worker = worker
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = self.private_peak = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            for child in psutil.Process(self._worker.pid).children(recursive=True):
                with contextlib.suppress(OSError):
                    sizes = read_memory(child.pid)
                    self.peak = max(self.peak, sizes["VmHWM"])
                    self.private_peak = max(self.private_peak, sizes["RssAnon"])


def read_memory(pid: int) -> dict[str, float]:
    """The figures of a process that the system keeps in kB (Linux), in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in fields}

"""Whose the data folder, the processes and the port are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from portal.processes.errors import ProcessesError
from portal.processes.programs import HOST

# In the environment of every process that belongs to a data folder; the value names the folder.
MARK = "GLEANER_INSTANCE"
LAUNCHERS = frozenset({"make", "gmake", "uv"})
# How long a portal takes at most to notice that its launcher was killed, and to stop.
HANDOVER_SECONDS = 12.0


@contextlib.contextmanager
def hold_data_folder(data_dir: Path) -> Iterator[None]:
    """Keeps other portals off the data folder for as long as this process lives.

    Waits for one that is about to stop because its launcher is gone. Raises ProcessesError when
    another holds the folder.
    """
    with (data_dir / "up.lock").open("a+", encoding="ascii") as lock:
        deadline = time.monotonic() + HANDOVER_SECONDS
        while not _try_lock(lock):
            holder, launchers = _read_holder(lock)
            is_stopping = any(_has_died(pid) for pid in launchers)
            if not is_stopping or time.monotonic() > deadline:
                raise ProcessesError(
                    f"The data folder {data_dir} is in use by pid {holder}. Stop that portal, or "
                    "set PORTAL_DATA_DIR and PORTAL_PORT for a second one."
                )
            time.sleep(0.2)
        pids = [os.getpid(), *(launcher.process.pid for launcher in find_launchers())]
        lock.truncate(0)
        lock.write(" ".join(str(pid) for pid in pids))
        lock.flush()
        yield


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(lock: IO[str]) -> tuple[int, list[int]]:
    """The process that holds the lock, and those that launched it."""
    lock.seek(0)
    pids = [int(text) for text in lock.read().split()]
    return (pids[0], pids[1:]) if pids else (0, [])


@dataclass(frozen=True, slots=True)
class Launcher:
    """A `make` or `uv run` that exists for our sake only: who ends it means the portal."""

    process: psutil.Process
    catches_interrupts: bool

    @property
    def wants_the_end(self) -> bool:
        """Whether it is dead or was interrupted.

        make hands no SIGINT on, as it expects a terminal to send it to everybody. When one comes
        to make alone, make goes back to the default handling and waits for us for ever.
        """
        if is_dead(self.process):
            return True
        return self.catches_interrupts and _catches_interrupts(self.process.pid) is False


def find_launchers() -> list[Launcher]:
    """Those through which this process was started, nearest first."""
    launchers = []
    pid = os.getppid()
    with contextlib.suppress(psutil.Error):
        # Not by psutil's `parents`, which compares times of birth: they move with the clock.
        while pid > 1 and (process := psutil.Process(pid)).name() in LAUNCHERS:
            launchers.append(Launcher(process, bool(_catches_interrupts(pid))))
            pid = process.ppid()
    return launchers


def _catches_interrupts(pid: int) -> bool | None:
    """Whether a process handles SIGINT itself; None where nobody can tell (not on Linux, no file
    descriptor left at this moment)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(int(found[1], 16) >> (signal.SIGINT - 1) & 1) if found else None


def _has_died(pid: int) -> bool:
    try:
        return is_dead(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def is_dead(process: psutil.Process) -> bool:
    """Whether the process is gone, or only waits to be buried by its parent."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def name_instance(data_dir: Path) -> str:
    """What the processes of a data folder carry in their environment."""
    return hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:24]


def find_marked(data_dir: Path) -> list[psutil.Process]:
    """The processes of this user that belong to the data folder, this one apart."""
    instance = name_instance(data_dir)
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != os.getuid():
                continue
            if process.environ().get(MARK) == instance or _is_redis_of(process, data_dir):
                found.append(process)
    return found


def _is_redis_of(process: psutil.Process, data_dir: Path) -> bool:
    """redis-server writes its title over its environment, our mark included; it works in a folder
    below the data folder, as we told it to."""
    return (
        process.name() == "redis-server"
        and not process.environ()
        and Path(process.cwd()).is_relative_to(data_dir.resolve())
    )


def end_marked(data_dir: Path, *, patience_seconds: float = 3.0) -> int:
    """Ends every process of the data folder, gently at first; gives how many there were.

    supervisord goes first, or it would start again what it sees dying.
    """
    marked = find_marked(data_dir)
    count = len(marked)
    for supervisor in (process for process in marked if _is_supervisor(process)):
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor.kill()
            # One that nobody buries counts as there for ever: that is no error.
            psutil.wait_procs([supervisor], timeout=patience_seconds)
    for process in (marked := find_marked(data_dir)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(marked, timeout=patience_seconds)
    for process in (marked := find_marked(data_dir)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(marked, timeout=patience_seconds)
    return count


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False


def check_port(port: int, *, variable: str = "PORTAL_PORT") -> None:
    """Raises ProcessesError when something listens on the port already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the web server does: what only lingers from closed connections is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = "is taken by another program"
            else:
                problem = f"cannot be used ({error.strerror})"
            raise ProcessesError(
                f"{variable}: port {port} of {HOST} {problem}. Choose another: {variable}=…"
            ) from None


def find_free_port(start: int) -> int:
    """The first port from `start` on that nobody listens on."""
    for port in range(start, start + 200):
        with contextlib.suppress(ProcessesError):
            check_port(port)
            return port
    raise ProcessesError(f"No port from {start} to {start + 199} is free.")

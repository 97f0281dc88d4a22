"""Whose the processes are, and who wants their end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from django.conf import settings

from portal.processes import supervision
from portal.processes.ownership import MARK, Launcher, end_marked, find_marked, name_instance
from portal.processes.programs import find_redis_server
from tests.waiting import wait_until

CATCHER = (
    "import signal, time; signal.signal(signal.SIGINT, print); print(flush=True); time.sleep(60)"
)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """A process that handles SIGINT itself, as make and uv do."""
    with subprocess.Popen([sys.executable, "-c", CATCHER], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield Launcher(psutil.Process(process.pid), catches_interrupts=True)
        finally:
            process.kill()


def test_a_launcher_that_lives_on_wants_no_end(launcher: Launcher) -> None:
    assert not launcher.wants_the_end


def test_a_launcher_of_which_nobody_can_tell_wants_no_end(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> str:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert not launcher.wants_the_end


def test_a_dead_launcher_wants_the_end(launcher: Launcher) -> None:
    launcher.process.kill()
    wait_until(lambda: launcher.wants_the_end, seconds=10)


def test_a_redis_that_wiped_its_environment_is_found_by_its_folder(tmp_path: Path) -> None:
    """redis-server writes its title over what /proc shows of its environment."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    started = []
    try:
        for folder in (ours, theirs):
            (folder / "redis").mkdir(parents=True)
            options = ["--port", "0", "--unixsocket", "redis.sock", "--save", ""]
            started.append(
                subprocess.Popen(
                    [find_redis_server(), "--dir", str(folder / "redis"), *options],
                    stdout=subprocess.DEVNULL,
                )
            )
        sockets = [folder / "redis" / "redis.sock" for folder in (ours, theirs)]
        wait_until(lambda: all(socket.exists() for socket in sockets), seconds=10)
        assert [process.pid for process in find_marked(ours)] == [started[0].pid]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_supervisor_that_nobody_buries_is_ended_all_the_same(tmp_path: Path) -> None:
    """As in a container whose first process is not an init."""
    program = "import time; time.sleep(60)"
    careless = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {program!r}, 'supervisor.supervisord'],"
        f" env={{{MARK!r}: {name_instance(tmp_path)!r}}})\n"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", careless], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout
            parent.stdout.readline()
            [supervisor] = find_marked(tmp_path)
            assert end_marked(tmp_path, patience_seconds=0.3) == 1
            wait_until(lambda: supervisor.status() == psutil.STATUS_ZOMBIE, seconds=10)
        finally:
            parent.kill()


def test_a_signal_is_heard_whatever_it_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision.Portal, "start", lambda *_: None)
    monkeypatch.setattr(supervision, "end_marked", lambda *_, **__: 0)
    # From another process: only then a signal wakes the wait itself.
    flood = (
        "import os, random, signal, time; end = time.monotonic() + 1.5\n"
        "while time.monotonic() < end:\n"
        f"    os.kill({os.getpid()}, signal.SIGHUP); time.sleep(random.random() * 0.0004)"
    )
    heard, before = 0, signal.getsignal(signal.SIGHUP)  # nohup has it ignored
    with supervision.run_portal(settings.GLEANER, []) as portal:
        flooding = subprocess.Popen([sys.executable, "-c", flood])
        while flooding.poll() is None:
            portal.pause(0.0001)
            heard += portal.is_stopping
            portal._is_stopping = False
        portal.ask_to_stop()
    assert heard > 100
    assert signal.getsignal(signal.SIGHUP) is before

"""supervisord as a child: started, asked, and taken down again with all that it started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from portal.config import BASE_DIR, Config
from portal.processes.errors import ProcessesError
from portal.processes.ownership import MARK, end_marked, find_launchers, name_instance
from portal.processes.programs import HOST, REDIS, Program

GROUP = "gleaner"
READY_TIMEOUT_SECONDS = 120.0
# A child gets this long to end by itself; then it and its children are killed. Workers may be
# killed at any moment: the ledger knows what is still to do.
CHILD_STOP_SECONDS = 4
STOP_SECONDS = 8.0
# How soon a request to stop is seen.
LOOK_SECONDS = 0.1


def write_configuration(config: Config, programs: Sequence[Program]) -> Path:
    """Writes supervisord.conf into the data folder; gives its path."""
    log_dir = config.data_dir / "log"
    log_dir.mkdir(mode=0o700, exist_ok=True)
    sections = [
        "[supervisord]",
        "nodaemon = true",
        "silent = true",
        f"logfile = {_escape(str(log_dir / 'supervisord.log'))}",
        "logfile_maxbytes = 5MB",
        "logfile_backups = 2",
        f"pidfile = {_escape(str(config.data_dir / 'supervisord.pid'))}",
        f"childlogdir = {_escape(str(log_dir))}",
        "",
    ]
    for program in programs:
        sections += _describe_section(program, log_dir)
    # supervisord stops one group after the other: all that talk to Redis at once, then Redis.
    together = ",".join(program.name for program in programs if program.name != REDIS)
    sections += [f"[group:{GROUP}]", f"programs = {together}", "priority = 100", ""]
    path = config.data_dir / "supervisord.conf"
    path.write_text("\n".join(sections), encoding="utf-8")
    return path


def _describe_section(program: Program, log_dir: Path) -> list[str]:
    environment = ",".join(
        f'{name}="{_escape(value)}"' for name, value in program.environment.items()
    )
    return [
        f"[program:{program.name}]",
        f"command = {_escape(shlex.join(program.command))}",
        f"directory = {_escape(str(BASE_DIR))}",
        f"priority = {program.priority}",
        *([f"environment = {environment}"] if environment else []),
        "autorestart = true",
        "startsecs = 1",
        # The pause before a start grows by a second each time: this is a long time.
        "startretries = 100",
        f"stopwaitsecs = {CHILD_STOP_SECONDS}",
        "killasgroup = true",
        "redirect_stderr = true",
        # supervisor expands this one value twice.
        f"stdout_logfile = {_escape(_escape(str(log_dir / program.name)))}.log",
        "stdout_logfile_maxbytes = 5MB",
        "stdout_logfile_backups = 3",
        "",
    ]


def _escape(text: str) -> str:
    """Text as a value of supervisord.conf. Raises ProcessesError for what that cannot hold."""
    if re.search(r"[\"\n\r]|\s[;#]", text):
        raise ProcessesError(
            f"supervisor cannot be told about {text!r}: choose a path without quotes, ; and #."
        )
    return text.replace("%", "%%")


class Portal:
    """A running set of processes; made by `run_portal`."""

    def __init__(self, config: Config, programs: Sequence[Program]) -> None:
        self.config = config
        self.programs = programs
        self.address = f"http://{HOST}:{config.port}/"
        # Not an Event: a signal may come while one is being waited for, and `set` would wait then.
        self._is_stopping = False
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._launchers = find_launchers()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked for the end (Ctrl-C, SIGTERM)."""
        return self._is_stopping

    def ask_to_stop(self) -> None:
        """May be called at any moment, by a signal handler too."""
        self._is_stopping = True

    def start(self, environment: Mapping[str, str]) -> None:
        configuration = write_configuration(self.config, self.programs)
        self._supervisor = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
            cwd=BASE_DIR,
            # Handed on as it is, with our mark; the children's settings come from it.
            env={
                **os.environ,  # noqa: TID251
                **environment,
                MARK: name_instance(self.config.data_dir),
            },
            stdin=subprocess.DEVNULL,
            # Ctrl-C reaches the whole foreground group; only this process may act on it.
            start_new_session=True,
        )

    def pause(self, seconds: float) -> None:
        """Waits, but not past a request to stop, which the end of `make` or `uv` is as well.

        Raises ProcessesError when supervisord died.
        """
        ends_at = time.monotonic() + seconds
        while not self._is_stopping and (left := ends_at - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
        if any(launcher.wants_the_end for launcher in self._launchers):
            self.ask_to_stop()
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise ProcessesError(
                f"supervisord ended with code {self._supervisor.returncode}:\n"
                f"{self.read_log_tail('supervisord')}"
            )

    def wait_until_ready(
        self,
        *,
        timeout_seconds: float = READY_TIMEOUT_SECONDS,
        report: Callable[[str], None] = lambda _: None,
    ) -> bool:
        """Whether /health/ready came to say yes before somebody asked to stop.

        `report` is told what is still missing, whenever that changes. Raises ProcessesError after
        the time-out, with the end of the log that explains most.
        """
        deadline = time.monotonic() + timeout_seconds
        told = ""
        while not self.is_stopping:
            is_ready, missing = ask_readiness(self.config)
            if is_ready:
                return True
            if missing != told:
                report(missing)
                told = missing
            if time.monotonic() > deadline:
                raise ProcessesError(
                    f"The portal was not ready after {timeout_seconds:.0f} s ({missing}).\n"
                    f"{self._explain_failure()}"
                )
            self.pause(0.2)
        return False

    def wait(self) -> None:
        """Blocks until somebody asks to stop."""
        while not self.is_stopping:
            self.pause(0.5)

    def stop(self) -> None:
        """Ends every process of this portal, children of children included."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            self._supervisor.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(timeout=STOP_SECONDS)
        end_marked(self.config.data_dir, patience_seconds=1.0)
        if self._supervisor is not None:
            self._supervisor.wait(timeout=STOP_SECONDS)

    def read_log_tail(self, name: str, *, lines: int = 15) -> str:
        path = self.config.data_dir / "log" / f"{name}.log"
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(f"  {name}: {line}" for line in text.splitlines()[-lines:])

    def _explain_failure(self) -> str:
        tails = [self.read_log_tail(program.name, lines=8) for program in self.programs]
        tails.append(self.read_log_tail("supervisord", lines=5))
        return "\n".join(tail for tail in tails if tail)


def ask_readiness(config: Config) -> tuple[bool, str]:
    """What /health/ready says: whether all is well, and in words what is not."""
    connection = http.client.HTTPConnection(HOST, config.port, timeout=5)
    host = config.allowed_hosts[0].lstrip(".*") or HOST
    try:
        connection.request("GET", "/health/ready", headers={"Host": host})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return False, "web server"
    finally:
        connection.close()
    if answer.status == 200:
        return True, ""
    return False, _name_failing_checks(body) or f"/health/ready answers {answer.status}"


def _name_failing_checks(body: bytes) -> str:
    try:
        checks = json.loads(body).get("checks", {})
        return ", ".join(name for name, check in checks.items() if not check.get("ok"))
    except (ValueError, AttributeError):
        return ""


@contextlib.contextmanager
def run_portal(
    config: Config,
    programs: Sequence[Program],
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Portal]:
    """Runs the programs for the length of the block; Ctrl-C, SIGTERM and SIGHUP only set its flag.

    Call it inside `hold_data_folder`, after `end_marked`.
    """
    portal = Portal(config, programs)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: portal.ask_to_stop()) for number in numbers}
    try:
        portal.start(environment or {})
        yield portal
    finally:
        # Further impatient Ctrl-Cs must not leave half of it running.
        portal.stop()
        for number, handler in before.items():
            signal.signal(number, handler)

"""Real portals for tests: a data folder, a port, and processes in an environment of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil

from ingest.outcomes import FINAL_STATES
from portal.config import BASE_DIR, Config, Environment, read_config
from portal.processes import HOST, MARK, Program, find_free_port, list_programs, name_instance
from portal.processes.ownership import is_dead

Found = TypeVar("Found")
EMAIL = "tester@example.org"
# What programs need of the machine; nothing that would point them to somebody's servers.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "CI")


def find_port() -> int:
    """A free port below those that the system gives to clients: one of these may be taken again by
    another test's connection before the portal has it."""
    return find_free_port(10_000 + secrets.randbelow(22_000))


def make_environment(data_dir: Path, port: int, **more: str) -> dict[str, str]:
    machine = {name: os.environ[name] for name in INHERITED if name in os.environ}  # noqa: TID251
    return {
        **machine,
        "PORTAL_DATA_DIR": str(data_dir),
        "PORTAL_PORT": str(port),
        "PORTAL_ALLOW_PRIVATE_UPSTREAMS": "1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def make_slug(name: str) -> str:
    """For a source of a portal that outlives the test: one that is tried again needs another."""
    return f"{name}-{secrets.token_hex(3)}"


def wait_for(what: str, look: Callable[[], Found | None], *, timeout_seconds: float = 60) -> Found:
    """What `look` finds, as soon as it is something; fails by name after the time-out."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s")
        time.sleep(0.1)


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: Any = None,
    token: str = "",
    timeout_seconds: float = 30,
) -> Answer:
    """One JSON request to a server on this machine."""
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, quote(path, safe="/?&=%,"), content, headers)
        response = connection.getresponse()
        raw = response.read()
        return Answer(response.status, dict(response.headers), json.loads(raw) if raw else None)
    finally:
        connection.close()


def ask_upstream(address: str, path: str) -> Any:
    return ask(int(address.rpartition(":")[2]), path).body


@dataclass
class Stack:
    """A portal whose processes the test itself starts and kills, one by one."""

    data_dir: Path
    port: int
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    token: str = ""

    @property
    def config(self) -> Config:
        return read_config(Environment(self.environment))

    @property
    def programs(self) -> dict[str, Program]:
        return {program.name: program for program in list_programs(self.config)}

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    def start(self, name: str, *, like: str = "", **more: str) -> None:
        """Starts a program, or one more of its kind as `name`; `more` is for its environment."""
        program = self.programs[like or name]
        node = f"{name}@%h"
        with (self.data_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [node if like and "@%h" in part else part for part in program.command],
                cwd=BASE_DIR,
                env=self.environment | {MARK: name_instance(self.data_dir)} | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """kill -9 of the process and its children, all at once."""
        children = self.children_of(name) if self.processes[name].poll() is None else []
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        wait_for("the end of the killed", lambda: all(map(is_dead, children)))

    def children_of(self, name: str) -> list[psutil.Process]:
        return psutil.Process(self.processes[name].pid).children(recursive=True)

    def read_log(self, name: str) -> str:
        return (self.data_dir / f"{name}.log").read_text(errors="replace")[-4000:]

    def begin(self) -> None:
        """Sets up, starts everything, waits until it is ready, and signs in."""
        password = secrets.token_urlsafe(16)
        self.manage("migrate", "--verbosity", "0")
        self.environment["DJANGO_SUPERUSER_PASSWORD"] = password
        self.manage("createsuperuser", "--noinput", "--email", EMAIL)
        for name in self.programs:
            self.start(name)
        try:
            wait_for("the portal to be ready", self.is_ready, timeout_seconds=60)
        except TimeoutError as error:
            logs = "\n".join(f"--- {name}\n{self.read_log(name)}" for name in self.programs)
            raise TimeoutError(f"{error}\n{logs}") from None
        answer = self.api("POST", "/api/token/", {"email": EMAIL, "password": password})
        self.token = answer.body["access"]

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def is_ready(self) -> bool:
        try:
            return ask(self.port, "/health/ready").status == 200
        except OSError:
            return False

    def api(self, method: str, path: str, body: Any = None) -> Answer:
        return ask(self.port, path, method=method, body=body, token=self.token)

    def create_source(self, slug: str, url: str, *, count: int, **more: Any) -> Answer:
        """A source of cities with a short temper, so that tests are quick."""
        configuration: dict[str, Any] = {
            "slug": slug,
            "request": {"url": url, "timeout_seconds": 5},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": count},
            "records": {
                "path": "data",
                "key": "id",
                "title": "name",
                "body": ["country", "alternate_names"],
                "occurred_at": "updated_at",
                "weight": "population",
            },
            "limits": {"per_second": 400, "concurrency": 20, "deadline_seconds": 120},
            "retry": {"base_seconds": 0.1, "cap_seconds": 5},
        }
        for part, values in more.items():
            configuration[part] = {**configuration[part], **values}
        return self.api("POST", "/api/sources/", configuration)

    def start_run(self, slug: str) -> int:
        answer = self.api("POST", f"/api/sources/{slug}/runs/")
        assert answer.status == 202, answer.body
        number: int = answer.body["id"]
        return number

    def read_run(self, number: int) -> dict[str, Any]:
        run: dict[str, Any] = self.api("GET", f"/api/runs/{number}/").body
        return run

    def wait_for_run(self, number: int, *, timeout_seconds: float = 120) -> dict[str, Any]:
        """The run as the API shows it when it has finished."""

        def look() -> dict[str, Any] | None:
            run = self.read_run(number)
            return run if run["state"] in FINAL_STATES else None

        return wait_for(f"the end of run {number}", look, timeout_seconds=timeout_seconds)

    def reconcile(self, number: int) -> dict[str, Any]:
        books: dict[str, Any] = self.api("GET", f"/api/runs/{number}/reconciliation/").body
        return books

    def wait_until_indexed(self) -> None:
        def look() -> bool:
            answer = self.api("GET", "/api/search/?q=")
            return answer.status == 200 and answer.body["coverage"]["pending"] == 0

        wait_for("an empty outbox", look)


@contextlib.contextmanager
def run_stack(data_dir: Path, **more: str) -> Iterator[Stack]:
    """A portal that is ready, and a signed-in administrator; every process is dead afterwards."""
    port = find_port()
    quick = {"LEASE_SECONDS": "3", "SLICE_SECONDS": "5"}
    environment = make_environment(data_dir, port, **(quick | more))
    stack = Stack(data_dir, port, environment)
    try:
        stack.begin()
        yield stack
    finally:
        stack.end()


def gaps_of(books: Mapping[str, Any]) -> dict[str, list[int]]:
    """The keys that a reconciliation names as missing, by outcome: the shape of /truth."""
    gaps: dict[str, list[int]] = {}
    for gap in books["missing"]:
        gaps.setdefault(gap["outcome"], []).append(int(gap["key"]))
    return {outcome: sorted(keys) for outcome, keys in gaps.items()}

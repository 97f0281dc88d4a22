"""A private PostgreSQL for tests and benches: its own folder, a Unix socket, nothing left behind.

`python -m tests.live.postgresql COMMAND…` runs a command with DATABASE_URL pointing to one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

USER = "gleaner"
DATABASE = "gleaner"
# Deliberately awkward: names are sorted as people do it, and the server lives in another zone than
# UTC, as real servers may. Code that leans on either is found out. Nothing needs to survive a
# power cut.
INITDB = (
    *("--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync"),
    *("--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"),
)
SETTINGS = {
    "listen_addresses": "",
    "timezone": "Asia/Tashkent",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "jit": "off",
    "log_min_messages": "warning",
}


class PostgresqlMissing(Exception):
    """No PostgreSQL server is installed here."""


def find_programs() -> Path:
    """The folder of initdb and postgres, the newest where there are several."""
    candidates = [Path(shutil.which("initdb") or "/nowhere").resolve().parent]
    if pg_config := shutil.which("pg_config"):
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(found.stdout.strip() or "/nowhere"))
    # Debian keeps the server's programs off PATH.
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise PostgresqlMissing(
        "no PostgreSQL server (initdb, postgres) on PATH or under /usr/lib/postgresql"
        " (Debian: apt-get install postgresql)"
    )


def _owner() -> dict[str, Any]:
    """As whom the server runs: it refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise PostgresqlMissing("PostgreSQL refuses root, and there is no user postgres or nobody")


@dataclass
class Cluster:
    """A running server. `url` is what DATABASE_URL takes; the database in it is empty."""

    folder: Path
    programs: Path
    owner: dict[str, Any]
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}@{quote(str(self.folder), safe='')}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.folder), user=USER, dbname=database, autocommit=True, connect_timeout=5
        )

    def create_database(self, name: str) -> str:
        """An empty database; gives its URL. One that a first try has left behind is gone then."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    def initialize(self) -> None:
        self._run("initdb", "--pgdata", str(self.folder / "data"), *INITDB)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = [
            part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(self.programs / "postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops us in order
                **self.owner,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.read_log()}") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"PostgreSQL is silent:\n{self.read_log()}") from None
                time.sleep(0.05)

    def stop(self, *, is_crash: bool = False) -> None:
        """Ends every session and the server; `is_crash` leaves it to the next start to recover."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGQUIT if is_crash else signal.SIGINT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=20)
        self.process = None

    def read_log(self) -> str:
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            **self.owner,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def run_cluster(**settings: str) -> Iterator[Cluster]:
    """A PostgreSQL of one's own, gone afterwards. Raises PostgresqlMissing."""
    programs, owner = find_programs(), _owner()
    # A socket's path must be short: pytest's own temporary folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="gleaner-pg-"))
    cluster = Cluster(folder, programs, owner, SETTINGS | settings)
    try:
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        cluster.initialize()
        cluster.start()
        cluster.create_database(DATABASE)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main(command: list[str]) -> int:
    with run_cluster() as cluster:
        environment = os.environ | {"DATABASE_URL": cluster.url}  # noqa: TID251 - for a child
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

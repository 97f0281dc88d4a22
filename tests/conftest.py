"""Fixtures for all tests: a real Redis on the socket that the settings of the test process name."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.plugin import DATA_DIR


@pytest.fixture(scope="session", autouse=True)
def redis_server() -> Iterator[str]:
    """A redis-server of this test process; gives its URL."""
    socket = Path(DATA_DIR) / "redis.sock"
    process = subprocess.Popen(
        [
            shutil.which("redis-server") or "redis-server",
            *("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", DATA_DIR),
        ],
        stdout=subprocess.DEVNULL,
    )
    url = f"unix://{socket}"
    with redis.Redis.from_url(url) as client:
        _wait_for_answer(client)
    yield url
    process.terminate()
    process.wait(timeout=10)


def _wait_for_answer(client: redis.Redis) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise TimeoutError("redis-server does not answer; is it installed?") from None
            time.sleep(0.02)


@pytest.fixture(autouse=True)
def _forgotten_hosts(redis_server: str) -> None:
    """Redis forgets what earlier tests did: a later upstream may be given the port of one that was
    limited, and would be spared as that one was."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()

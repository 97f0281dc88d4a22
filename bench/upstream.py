"""The upstream of the ingest race: the rehearsal server, calm, 5 ms late, in a process of its own.

python -m bench.upstream COUNT      prints its address and serves until it is stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import uvloop

from ingest.rehearsal import PROFILES, make_app, start_site

LATENCY_SECONDS = 0.005


@contextlib.contextmanager
def run_upstream(count: int) -> Iterator[str]:
    """Gives the address of a server of `count` cities."""
    command = [sys.executable, "-m", "bench.upstream", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the upstream did not start"
            yield address
        finally:
            process.kill()


def reset(address: str) -> None:
    """Lets the server forget what it has seen, so that it is as light as at its start."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("POST", "/reset")
    connection.getresponse().read()
    connection.close()


async def serve(count: int) -> None:
    profile = replace(PROFILES["calm"], latency_seconds=LATENCY_SECONDS)
    _, port = await start_site(make_app(profile=profile, count=count), host="127.0.0.1", port=0)
    print(f"http://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        contextlib.suppress(KeyboardInterrupt),
    ):
        runner.run(serve(int(sys.argv[1])))

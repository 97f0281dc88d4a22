"""The servers of the tests end without a trace, or another test would be blamed for it."""

from __future__ import annotations

import asyncio
import gc
import socket
import time

from tests.ingest.upstream import end_server, loop_in_thread


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def test_a_connection_that_comes_as_a_server_ends_is_closed():
    for _ in range(5):
        with loop_in_thread() as loop:
            starting = asyncio.start_server(hang_up, "127.0.0.1", 0)
            server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
            loop.call_soon_threadsafe(time.sleep, 0.1)  # so that it finds both at once
            time.sleep(0.03)
            with socket.create_connection(server.sockets[0].getsockname()):
                asyncio.run_coroutine_threadsafe(end_server(server), loop).result(10)
    gc.collect()

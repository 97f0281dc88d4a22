"""A real HTTP server that plays scripted answers, raw bytes included; what it saw can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedUpstream:
    """`url` serves `answer` for every path; `seen` are the paths with their headers, in order,
    `targets` the same paths byte for byte as they came."""

    answer: Handler
    url: str = ""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path_qs, dict(request.headers)))
        self.targets.append(request.raw_path)
        return await self.answer(request)


ROUNDS = 5  # a connection is taken or closed in the loop's next rounds, one of TLS in several


async def end_all() -> None:
    """Ends what a loop still does, so that nothing of it is found open later, in another test."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # What is closed waits for a client to read the rest, which may never come. Only the loop itself
    # knows of all connections.
    transports = getattr(asyncio.get_running_loop(), "_transports", {})
    for transport in list(transports.values()):
        transport.abort()
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


@contextlib.contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(end_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


@contextlib.contextmanager
def scripted_upstream(
    answer: Handler, *, tls: ssl.SSLContext | None = None, **server: Any
) -> Iterator[ScriptedUpstream]:
    """An upstream on a free loopback port that answers every request with `answer(request)`.

    `server` are options of aiohttp's AppRunner.
    """
    upstream = ScriptedUpstream(answer)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", upstream.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, **server)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return int(runner.addresses[0][1])

    with loop_in_thread() as loop:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        try:
            yield upstream
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)


@contextlib.contextmanager
def raw_upstream(
    play: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    speaks_first: bool = False,
) -> Iterator[str]:
    """A TCP server whose every connection is played by `play`, after the request's head is read."""
    servers: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Cancelled: the test is over, and asyncio would tell the log of it.
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                if not speaks_first:
                    await reader.readuntil(b"\r\n\r\n")
                await play(reader, writer)
        finally:
            writer.close()

    async def start() -> int:
        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return int(servers[0].sockets[0].getsockname()[1])

    async def stop() -> None:
        servers[0].close()

    with loop_in_thread() as loop:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)

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


async def end_server(server: asyncio.Server) -> None:
    """Closes a server that takes nothing any more, and knows of all that it has taken.

    One that is closed in the moment in which it takes a connection leaves it open for good
    (python/cpython#109564).
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    server.close()


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
def serve(
    app: web.Application, *, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[str]:
    """Serves an application on a free loopback port, from a thread; gives its address.

    `options` are those of aiohttp's AppRunner.
    """
    runner = web.AppRunner(app, shutdown_timeout=0.1, **options)

    async def start() -> asyncio.Server:
        await runner.setup()
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        return await loop.create_server(runner.server, "127.0.0.1", 0, ssl=tls)

    async def stop() -> None:
        await end_server(server)
        await runner.cleanup()

    with loop_in_thread() as loop:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield f"{'https' if tls else 'http'}://{address_of(server)}"
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)


def address_of(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()
    return f"{host}:{port}"


@contextlib.contextmanager
def scripted_upstream(
    answer: Handler, *, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[ScriptedUpstream]:
    """An upstream that answers every request with `answer(request)`; for the rest see `serve`."""
    upstream = ScriptedUpstream(answer)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", upstream.handle)
    with serve(app, tls=tls, **options) as upstream.url:
        yield upstream


@contextlib.contextmanager
def raw_upstream(
    play: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    speaks_first: bool = False,
) -> Iterator[str]:
    """A TCP server whose every connection is played by `play`, after the request's head is read."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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

    with loop_in_thread() as loop:
        starting = asyncio.start_server(converse, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
        try:
            yield f"http://{address_of(server)}"
        finally:
            asyncio.run_coroutine_threadsafe(end_server(server), loop).result(10)

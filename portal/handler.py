"""Requests in a few lasting threads.

Everything in this portal is synchronous: middlewares, views, database. Django's ASGI handler makes
a thread for each request, so the request opens a database connection of its own (1 ms on SQLite),
and hops to that thread for every signal (docs/decisions/0081). It also reads a synchronous stream
to its end before it sends the first byte.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.signals import request_started
from django.db import connections
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

# Files and exports: they wait for their readers most of the time, but hold a thread while they do.
MAX_STREAMS = 64
STALL_SECONDS = 30.0


class PooledHandler(ASGIHandler):
    """An ASGI application that answers each request in one hop to one of WEB_THREADS threads.

    A synchronous stream is sent piece by piece from a thread of its own, as fast as its reader
    takes it; it is closed when the reader goes away. One that raises is never ended properly: the
    server cuts the connection, and the reader sees that it is not whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._requests = ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="web")
        self._streams = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="stream")
        # Whether this process lives must not be asked in the queue behind its work.
        self._probes = ThreadPoolExecutor(1, thread_name_prefix="probe")

    def shut_down(self) -> None:
        """Ends the threads, with their connections to the database."""
        threads = settings.WEB_THREADS
        everybody = threading.Barrier(threads)

        def leave() -> None:
            everybody.wait()  # so that no thread takes two of these
            connections.close_all()

        for _ in range(threads):
            self._requests.submit(leave)
        self._probes.submit(connections.close_all)
        for pool in (self._requests, self._streams, self._probes):
            pool.shutdown()

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"This application speaks HTTP only, not {scope['type']}.")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        # Language, script prefix and the like belong to the request, also while it streams.
        context = contextvars.copy_context()
        with body:
            pool = self._probes if scope["path"].rstrip("/") == "/health" else self._requests
            response = await _hop(pool, context, self._respond, scope, body)
            if isinstance(response, StreamingHttpResponse) and not response.is_async:
                await self._stream(response, context, receive, send)
                return
            await self.send_response(response, send)
            if response.streaming:
                await _hop(self._requests, context, response.close)

    def _respond(self, scope: dict[str, Any], body: Any) -> HttpResponseBase:
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        response = (
            cast(HttpResponseBase, refusal) if request is None else self.get_response(request)
        )
        if not response.streaming:
            # The content is complete: what follows a request may follow now, without another hop.
            response.close()
        return response

    async def _stream(
        self,
        response: StreamingHttpResponse,
        context: contextvars.Context,
        receive: Any,
        send: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        is_gone = threading.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone.set()

        def put(message: dict[str, Any]) -> None:
            sent = asyncio.run_coroutine_threadsafe(send(message), loop)
            try:
                sent.result(timeout=STALL_SECONDS)
            except TimeoutError:
                # Who reads nothing holds one of few threads.
                sent.cancel()
                is_gone.set()
                raise

        def run() -> None:
            try:
                put(_describe_start(response))
                for piece in self._cut(response):
                    if is_gone.is_set():
                        return
                    put({"type": "http.response.body", "body": piece, "more_body": True})
                put({"type": "http.response.body"})
            finally:
                # Also closes a generator that was left in the middle, in the thread that ran it.
                response.close()
                connections.close_all()

        watcher = asyncio.create_task(watch())
        try:
            await _hop(self._streams, context, run)
        finally:
            watcher.cancel()

    def _cut(self, response: StreamingHttpResponse) -> Iterator[bytes]:
        for piece in response:
            # Django's stubs take a chunk of bytes for a sequence of numbers.
            yield from (bytes(chunk) for chunk, _ in self.chunk_bytes(piece))


async def _hop(
    pool: Executor, context: contextvars.Context, do: Callable[..., Any], *arguments: Any
) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, context.run, do, *arguments)


def _describe_start(response: HttpResponseBase) -> dict[str, Any]:
    headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
    headers += [
        (b"Set-Cookie", cookie.output(header="").strip().encode("ascii"))
        for cookie in response.cookies.values()
    ]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}

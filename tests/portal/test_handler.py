"""Requests over ASGI: threads that last, streams sent while they are made, broken ones cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from portal.handler import PooledHandler

pytestmark = pytest.mark.django_db(transaction=True)

Ask = Callable[[str], ApplicationCommunicator]

seen: list[Any] = []


def show_connection(request: HttpRequest) -> HttpResponse:
    connection.ensure_connection()
    return HttpResponse(f"{threading.get_ident()} {id(connection.connection)}")


def count_up(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        try:
            for number in range(1_000):
                seen.append((number, threading.current_thread().name))
                yield f"{number}\n"
        finally:
            seen.append("closed")

    return StreamingHttpResponse(pieces())


def break_off(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        yield "half of "
        raise RuntimeError("the engine is gone")

    return StreamingHttpResponse(pieces())


urlpatterns = [
    path("api/connection/", show_connection),
    path("api/count/", count_up),
    path("api/break/", break_off),
]


@pytest.fixture
def handler(settings: Any) -> Iterator[PooledHandler]:
    settings.ROOT_URLCONF = __name__
    settings.WEB_THREADS = 1
    seen.clear()
    handler = PooledHandler()
    yield handler
    handler.shut_down()


def call(handler: PooledHandler, address: str) -> ApplicationCommunicator:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": address,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
    }
    return ApplicationCommunicator(handler, scope)


async def begin(communicator: ApplicationCommunicator) -> int:
    await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await communicator.receive_output(timeout=10)
    return int(start["status"])


def test_a_thread_keeps_its_connection_to_the_database(handler: PooledHandler) -> None:
    async def ask() -> bytes:
        communicator = call(handler, "/api/connection/")
        assert await begin(communicator) == 200
        body: bytes = (await communicator.receive_output(timeout=10))["body"]
        await communicator.wait(timeout=10)
        return body

    assert asyncio.run(ask()) == asyncio.run(ask())


def test_a_stream_is_sent_while_it_is_made_and_ends_with_its_reader(
    handler: PooledHandler,
) -> None:
    async def read_a_little() -> list[bytes]:
        communicator = call(handler, "/api/count/")
        await begin(communicator)
        pieces = [(await communicator.receive_output(timeout=10))["body"] for _ in range(3)]
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait(timeout=10)
        return pieces

    assert asyncio.run(read_a_little()) == [b"0\n", b"1\n", b"2\n"]
    assert seen[-1] == "closed"
    threads = {name for _, name in seen[:-1]}
    assert len(threads) == 1
    assert threads.pop().startswith("stream")


def test_a_stream_that_is_read_to_its_end_is_ended(handler: PooledHandler) -> None:
    async def read() -> list[dict[str, Any]]:
        communicator = call(handler, "/api/count/")
        await begin(communicator)
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1].get("more_body"):
            messages.append(await communicator.receive_output(timeout=10))
        await communicator.wait(timeout=10)
        return messages

    messages = asyncio.run(read())
    assert len(messages) == 1_001
    assert messages[-1] == {"type": "http.response.body"}


def test_a_stream_that_breaks_is_never_ended(handler: PooledHandler) -> None:
    async def read() -> dict[str, Any]:
        communicator = call(handler, "/api/break/")
        await begin(communicator)
        message: dict[str, Any] = await communicator.receive_output(timeout=10)
        with pytest.raises(RuntimeError, match="the engine is gone"):
            await communicator.wait(timeout=10)
        assert communicator.output_queue.empty()
        return message

    assert asyncio.run(read()) == {
        "type": "http.response.body",
        "body": b"half of ",
        "more_body": True,
    }

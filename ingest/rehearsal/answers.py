"""The answers of the rehearsal upstream, bad ones above all."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

import brotli  # type: ignore[import-untyped]
from aiohttp import web

from ingest.fetch.decoding import zstd
from ingest.rehearsal.misbehaviour import Misbehaviour

JSON_TYPE: Final = "application/json"


def say(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps({"error": message, "status": status}).encode()
    return web.Response(status=status, body=body, content_type=JSON_TYPE, headers=headers)


def send_json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=JSON_TYPE)


def _rename_keys(body: bytes) -> bytes:
    return json.dumps({"result": json.loads(body)["data"]}, ensure_ascii=False).encode()


def _forget_population(body: bytes) -> bytes:
    city = json.loads(body)["data"]
    return json.dumps({"data": {**city, "population": math.nan}}, ensure_ascii=False).encode()


@cache
def _make_huge(body: bytes) -> bytes:
    return json.dumps({"data": json.loads(body)["data"], "padding": "x" * 50_000_000}).encode()


@cache
def _make_bomb(body: bytes) -> bytes:
    return gzip.compress(_make_huge(body))


@cache
def _make_zstd_bomb(body: bytes) -> bytes:
    packed: bytes = zstd.compress(_make_huge(body))
    return packed


def _send_packed(coding: str, body: bytes) -> web.Response:
    return web.Response(body=body, content_type=JSON_TYPE, headers={"Content-Encoding": coding})


def _redirect(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


def _truncate(body: bytes) -> bytes:
    """Half of it, in whole characters: what is wrong with it shall be the JSON, not the coding."""
    return body[: len(body) // 2].decode(errors="ignore").encode()


_PAGE: Final = (
    "<!doctype html><html><head><title>Maintenance</title></head>"
    "<body><h1>We will be back soon</h1></body></html>"
)
_DEPTH: Final = 10_000
BAD_ANSWERS: Final[Mapping[Misbehaviour, Callable[[bytes], web.Response]]] = MappingProxyType(
    {
        Misbehaviour.UNAVAILABLE: lambda _: say(503, "The service is not available."),
        Misbehaviour.BROKEN: lambda _: say(500, "Something went wrong."),
        Misbehaviour.EMPTY_LIST: lambda _: send_json(b"[]"),
        Misbehaviour.EMPTY_PATH: lambda _: send_json(b'{"data": null}'),
        Misbehaviour.NO_CONTENT: lambda _: web.Response(status=204),
        Misbehaviour.HTML: lambda _: web.Response(text=_PAGE, content_type="text/html"),
        Misbehaviour.TRUNCATED: lambda body: send_json(_truncate(body)),
        Misbehaviour.WRONG_KEYS: lambda body: send_json(_rename_keys(body)),
        Misbehaviour.UNDECODABLE: lambda body: send_json(body.replace(b'"name"', b'"n\xff\xfe"')),
        Misbehaviour.NOT_A_NUMBER: lambda body: send_json(_forget_population(body)),
        Misbehaviour.DEEP: lambda _: send_json(b'{"data": ' + b"[" * _DEPTH + b"]" * _DEPTH + b"}"),
        Misbehaviour.HUGE: lambda body: send_json(_make_huge(body)),
        Misbehaviour.BOMB: lambda body: _send_packed("gzip", _make_bomb(body)),
        Misbehaviour.BROTLI: lambda body: _send_packed("br", brotli.compress(body)),
        Misbehaviour.ZSTD: lambda body: _send_packed("zstd", zstd.compress(body)),
        Misbehaviour.ZSTD_BOMB: lambda body: _send_packed("zstd", _make_zstd_bomb(body)),
        Misbehaviour.NOT_PACKED: lambda body: _send_packed("gzip", body),
        Misbehaviour.UNKNOWN_CODING: lambda body: _send_packed("snappy", body),
        Misbehaviour.TO_A_FILE: lambda _: _redirect("file:///etc/passwd"),
        # Without a path, "?" leads back to where it came from.
        Misbehaviour.IN_CIRCLES: lambda _: _redirect("?again"),
        Misbehaviour.MISSING: lambda _: say(404, "There is no such city."),
        Misbehaviour.GONE: lambda _: say(410, "This city is gone."),
        # The word is a block marker on purpose: one 403 among good answers is not a block.
        Misbehaviour.DENIED: lambda _: say(403, "Access to this city is denied."),
    }
)


def reset_connection(request: web.Request) -> web.Response:
    """Kills the connection with a TCP reset; what is returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Closing with a linger time of zero sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


async def cut_off(request: web.Request, body: bytes) -> web.StreamResponse:
    """Promises the whole body, sends half of it and hangs up."""
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def send_raw(request: web.Request, *parts: bytes) -> web.Response:
    """Writes the parts as they are, past aiohttp, which would not send them, and hangs up."""
    if request.transport is not None:
        request.transport.write(b"".join(parts))
        request.transport.close()
    return web.Response(status=500)


def overrun(request: web.Request, body: bytes) -> web.Response:
    """The whole body as announced, and more."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
    return send_raw(request, head.encode(), body, b"and something else")


def announce_twice(request: web.Request, body: bytes) -> web.Response:
    """Two lengths: nobody can tell where the answer ends."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Length: 5\r\n\r\n"
    return send_raw(request, head.encode(), body)


async def drip(
    request: web.Request,
    body: bytes,
    *,
    seconds: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> web.StreamResponse:
    """The whole body, twenty pieces long."""
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    response.content_length = len(body)
    await response.prepare(request)
    step = -(-len(body) // 20)
    for start in range(0, len(body), step):
        await sleep(seconds / 20)
        await response.write(body[start : start + step])
    return response

"""A real proxy: CONNECT tunnels and plain forwarding, with a password or not, good or bad."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.ingest.upstream import address_of, end_server, loop_in_thread


@dataclass
class Proxy:
    """`url` carries the credentials. `seen` are the request lines, `authorizations` the values of
    Proxy-Authorization, in order. `refuses_with` is a status that everybody gets."""

    credentials: str = ""
    refuses_with: int | None = None
    is_mute: bool = False
    url: str = ""
    seen: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                await self._serve_one(reader, writer)
        finally:
            _close(writer)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *headers = head.strip().split("\r\n")
        self.seen.append(line)
        fields = dict(header.split(": ", 1) for header in headers)
        self.authorizations.append(fields.get("Proxy-Authorization", ""))
        if self.is_mute:
            await asyncio.sleep(60)
        if status := self._find_refusal(fields):
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        method, target, version = line.split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            first = b""
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            place, slash, path = target.removeprefix("http://").partition("/")
            host, _, port = place.partition(":")
            kept = [each for each in headers if not each.startswith(("Proxy-", "Connection"))]
            first = "\r\n".join(
                [f"{method} {slash}{path} {version}", *kept, "Connection: close", "", ""]
            ).encode()
        far_reader, far_writer = await asyncio.open_connection(host, int(port or 80))
        self.writers.append(far_writer)
        far_writer.write(first)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            _close(far_writer)

    def _find_refusal(self, fields: dict[str, str]) -> int | None:
        expected = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        if self.credentials and fields.get("Proxy-Authorization") != expected:
            return 407
        return self.refuses_with


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        _close(writer)


def _close(writer: asyncio.StreamWriter) -> None:
    # A second close of a TLS connection makes asyncio forget what to abort.
    if not writer.is_closing():
        writer.close()


@contextlib.contextmanager
def running_proxy(
    *,
    credentials: str = "",
    refuses_with: int | None = None,
    is_mute: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Proxy]:
    """A proxy on a free loopback port."""
    proxy = Proxy(credentials, refuses_with, is_mute)

    async def stop() -> None:
        await end_server(server)
        for writer in proxy.writers:
            writer.transport.abort()  # TLS would wait for the other side's farewell

    with loop_in_thread() as loop:
        starting = asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
        user = f"{credentials}@" if credentials else ""
        proxy.url = f"{'https' if tls else 'http'}://{user}{address_of(server)}"
        try:
            yield proxy
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)

"""One HTTP exchange with aiohttp: whatever happens comes back as a Reply, never as an exception."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from ingest.configuration import RequestPart
from ingest.fetch.answers import Reply
from ingest.fetch.guard import AddressGuard, AddressRefused
from ingest.plans import PreparedRequest
from ingest.secrets import Redactor, detach_secrets

MAX_REDIRECTS = 10
CHUNK_BYTES = 65_536
USER_AGENT = "Gleaner/0.1 (+search-centred ingestion)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# aiohttp's 8 kB break on real Link and Set-Cookie headers; their number is limited anyway.
MAX_HEADER_BYTES = 65_536


class _NotingResolver(aiohttp.ThreadedResolver):
    """Remembers which names led to an address, for the guard's allow-list."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, set[str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        for each in found:
            self._names.setdefault(each["host"], set()).add(host.lower())
        return found

    def names_of(self, address: str) -> set[str]:
        return self._names.get(address, set())


class _Connector(aiohttp.TCPConnector):
    """Takes no kept connection on which the server has spoken unasked.

    What it said would be read as the answer to the next request: a row would count as delivered
    by an answer that was never asked for it.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class _Clock:
    """The time of one send, which stands still while a redirect waits for its slot."""

    def __init__(
        self, timeout_seconds: float, before_hop: Callable[[], Awaitable[None]] | None
    ) -> None:
        self.timeout = asyncio.timeout(timeout_seconds)
        self._before_hop = before_hop
        self._began = time.perf_counter()

    async def pause(self) -> None:
        if self._before_hop is None:
            return
        loop, ends_at = asyncio.get_running_loop(), self.timeout.when()
        paused_at = loop.time()
        self.timeout.reschedule(None)
        await self._before_hop()
        paused_seconds = loop.time() - paused_at
        self._began += paused_seconds
        self.timeout.reschedule(None if ends_at is None else ends_at + paused_seconds)

    def read_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


class Transport:
    """A pooled aiohttp session for one source; `async with` it.

    `timeout_seconds` bounds one send from connect to last byte, redirects included. Headers of the
    source go to the origin of `request.url` only.
    """

    def __init__(
        self,
        part: RequestPart,
        *,
        guard: AddressGuard,
        concurrency: int,
        max_body_bytes: int,
    ) -> None:
        self._part = part
        self._max_body_bytes = max_body_bytes
        self._concurrency = concurrency
        data = {"request": part.model_dump(mode="json", by_alias=True)}
        self._redact = Redactor(detach_secrets(data)[1].values())
        self._guard = guard
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._resolver = _NotingResolver()
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._concurrency,
                resolver=self._resolver,
                socket_factory=self._guard.socket_factory(self._resolver.names_of),
                ttl_dns_cache=60,
            ),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            trust_env=False,
        )
        # aiohttp would repeat a GET by itself on a kept connection that died: a send that neither
        # the budget nor the ledger knows of. It has no public switch for it.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def send(
        self, request: PreparedRequest, *, before_hop: Callable[[], Awaitable[None]] | None = None
    ) -> Reply:
        """`before_hop` is awaited before a redirect to the same origin is followed: it is a send
        of its own to the server that counts. Its time is not that of the send."""
        clock = _Clock(self._part.timeout_seconds, before_hop)
        try:
            async with clock.timeout:
                reply = await self._exchange(request, clock)
        except TimeoutError:
            reply = Reply(
                failure="timeout", reason=f"no whole answer in {self._part.timeout_seconds:g} s"
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure, reason = name_failure(error)
            reply = Reply(failure=failure, reason=reason)
        return replace(reply, latency_ms=clock.read_ms())

    async def _exchange(self, request: PreparedRequest, clock: _Clock) -> Reply:
        method, headers = request.method, dict(request.headers)
        home = target = URL(request.url)
        status: int | None = None
        for _ in range(MAX_REDIRECTS + 1):
            proxy = self._next_proxy(target.scheme)
            if proxy:
                await self._check_behind_proxy(target)
            async with self._session.request(
                method,
                target,
                headers=headers,
                proxy=proxy,
                allow_redirects=False,
            ) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    return await self._read(response)
                status = response.status
            follower = _join(target, location)
            if follower is None:
                return _stray(status, "redirected to what is not a valid http or https address")
            target = follower
            if target.origin() == home.origin():
                await clock.pause()
            else:
                # The source's headers may be secrets: they are for its own origin alone.
                headers = {}
                if self._redact(str(target)) != str(target):
                    return _stray(status, "redirected to another address with a secret in it")
            if status == 303 or (status in {301, 302} and method == "POST"):
                method = "GET"
        return Reply(
            status=status, failure="redirect_loop", reason=f"more than {MAX_REDIRECTS} redirects"
        )

    async def _check_behind_proxy(self, target: URL) -> None:
        """Behind a proxy no socket of ours goes to the target, so its addresses are checked here.

        A name that this machine cannot resolve is the proxy's to judge.
        """
        host, port = target.host or "", target.port or 0
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        for *_, address in found:
            self._guard.check(str(address[0]), port, host=host)

    async def _read(self, response: aiohttp.ClientResponse) -> Reply:
        headers = response.headers
        body, is_too_large, broken = await self._read_body(response)
        return Reply(
            status=response.status,
            content_type=headers.get("Content-Type", ""),
            charset=_charset_of(headers),
            retry_after=headers.get("Retry-After"),
            body=body,
            is_too_large=is_too_large,
            failure="broken_off" if broken else "",
            reason=broken,
        )

    async def _read_body(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool, str]:
        """(decoded bytes up to the limit, whether there was more, why the transfer broke off)."""
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                chunks.append(chunk)
                size += len(chunk)
                if size > self._max_body_bytes:
                    response.close()
                    return b"".join(chunks)[: self._max_body_bytes], True, ""
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return b"".join(chunks), False, f"the transfer broke off: {type(error).__name__}"
        return b"".join(chunks), False, ""

    def _next_proxy(self, scheme: str) -> str | None:
        """The proxies are used in turn; one without a URL for this scheme is passed over."""
        usable = [
            address
            for proxy in self._part.proxies
            if (address := proxy.https if scheme == "https" else proxy.http)
        ]
        if not usable:
            return None
        self._turn += 1
        return usable[self._turn % len(usable)]


def name_failure(error: BaseException) -> tuple[str, str]:
    """(stable kind, text for people without addresses that could hold secrets) of an exception."""
    for each in _causes(error):
        if isinstance(each, AddressRefused):
            return "refused_address", str(each)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "tls", f"TLS failed: {_text_of(error)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", f"the host {error.host} cannot be resolved"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return "proxy", "the proxy cannot be used"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection_refused", f"cannot connect: {_text_of(error.os_error)}"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "connection_reset", "the connection was closed before an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", f"not HTTP as it should be: {error.message}"[:300]
    if isinstance(error, aiohttp.InvalidURL):
        return "redirect", "the address is not a valid URL"
    if isinstance(error, aiohttp.ClientOSError):
        return "connection_reset", f"the connection broke: {_text_of(error)}"
    if isinstance(error, ValueError):
        return "unsendable", "the address or a header of the request is not valid"
    return "connection", type(error).__name__


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    queue = [error]
    while queue:
        each = queue.pop()
        if each is None or each in found:
            continue
        found.append(each)
        queue += [each.__cause__, each.__context__, getattr(each, "os_error", None)]
        if isinstance(each, BaseExceptionGroup):
            queue.extend(each.exceptions)
    return found


def _text_of(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _text_of(error.certificate_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _join(url: URL, location: str) -> URL | None:
    """Where a redirect leads; None where that is not an http or https address.

    Parsed by the same parser that opens the connection: two that disagree about the host of an
    odd address would send secrets to the wrong one.
    """
    try:
        target = url.join(URL(location))
        is_usable = target.scheme in {"http", "https"} and bool(target.host) and target.port != 0
    except ValueError:
        return None
    return target if is_usable else None


def _stray(status: int, reason: str) -> Reply:
    return Reply(status=status, failure="redirect", reason=reason)


def _charset_of(headers: Mapping[str, str]) -> str | None:
    content_type = headers.get("Content-Type", "")
    for part in content_type.split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None

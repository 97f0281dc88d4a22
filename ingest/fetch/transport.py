"""One HTTP exchange with aiohttp: whatever happens comes back as a Reply, never as an exception."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from ingest.configuration import MAX_HOST, RequestPart
from ingest.fetch.answers import Reply
from ingest.fetch.decoding import ACCEPTED, BodyDecoder
from ingest.fetch.guard import AddressGuard, AddressRefused
from ingest.fetch.rotation import Rotation
from ingest.plans import PreparedRequest
from ingest.secrets import KEPT_CHARACTERS, Redactor, detach_secrets

MAX_REDIRECTS = 10
USER_AGENT = "Gleaner/0.1 (+search-centred ingestion)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# aiohttp's 8 kB break on real Link and Set-Cookie headers; their number is limited anyway.
MAX_HEADER_BYTES = 65_536
# Servers close a connection that is idle for five seconds or more (Node, uvicorn, Apache: 5).
KEPT_SECONDS = 4.0
# A kept connection that was idle for so long, and dies before an answer, had been closed by the
# server before the request came (RFC 9112 §9.3.1): asking once more costs no attempt.
STALE_AFTER_SECONDS = 0.5
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110 §9.2.2
# How long a proxy may take until it has a connection, and how many are tried for one send.
PROXY_CONNECT_SECONDS = 10.0
PROXIES_PER_SEND = 5
# Nobody asks for the addresses of a target behind a proxy more often than this.
RESOLVED_SECONDS = 60.0

# How long the connection that this task's request got had been idle; None for a new one.
_idle_seconds: ContextVar[float | None] = ContextVar("idle_seconds", default=None)
_wants_new: ContextVar[bool] = ContextVar("wants_new", default=False)
# The clock of the send whose slot is waited for once more when its connection stands.
_clock: ContextVar[_Clock | None] = ContextVar("clock", default=None)


BeforeHop = Callable[[URL], Awaitable[None]]
AfterConnect = Callable[[], Awaitable[None] | None]


class ProxyFailed(aiohttp.ClientError):
    """No connection came about through the proxy. `is_certain`: it is the proxy's own fault, not
    perhaps that of the target behind it."""

    def __init__(self, reason: str, *, is_certain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_certain = is_certain


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


class _Protocol(ResponseHandler):
    """Reads an answer by its own length, whatever a careless server sends after it.

    aiohttp's parser throws the whole answer away when junk follows in the same packet (a body
    longer than announced, a body after a 204) and keeps it when the junk comes a moment later.
    Head and rest are fed to it one after the other, so that the answer is out before the junk.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.heard_at = 0.0
        self._is_in_head = True

    def set_response_params(self, **parameters: Any) -> None:
        self._is_in_head = True
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        # An answer to 103 Early Hints is another head; so is what nobody asked for.
        while self._is_in_head and (end := data.find(b"\r\n\r\n") + 4) > 3:
            super().data_received(data[:end])
            data = data[end:]
            self._is_in_head = data.startswith(b"HTTP/")
        if data:
            super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tells the reader of the body, too: after a chunk that is none, aiohttp lets him wait."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(str(getattr(exc, "message", exc))))


class _Connector(aiohttp.TCPConnector):
    """Takes no kept connection on which the server has spoken unasked, and knows proxy trouble.

    What a server said unasked would be read as the answer to the next request: a row would count
    as delivered by an answer that was never asked for it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(_Protocol, self._loop)

    async def _get(self, key: Any, traces: Any) -> Any:
        _idle_seconds.set(None)
        if _wants_new.get():
            return None
        while (connection := await super()._get(key, traces)) is not None:
            # Compared with None: an idle protocol is an empty queue, which counts as false.
            protocol: Any = connection.protocol
            if protocol is not None and not protocol.should_close:
                _idle_seconds.set(time.monotonic() - protocol.heard_at)
                return connection
            connection.close()
        return None

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        """A connection on which the send may leave now.

        The wait for its slot is none of connecting, which may have a timeout of its own.
        """
        while True:
            connection = await self._connect_in_time(req, traces, timeout)
            try:
                if (clock := _clock.get()) is not None:
                    await clock.pause_connected()
            except BaseException:
                connection.close()
                raise
            protocol: Any = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            # It died, or the server spoke first: nothing was sent on it.
            connection.close()
            if _idle_seconds.get() is None:
                # A server that does so to each new one would be connected to without end.
                raise aiohttp.ServerDisconnectedError

    async def _connect_in_time(self, req: Any, traces: Any, timeout: Any) -> Any:
        if req.proxy is None:
            return await super().connect(req, traces, timeout)
        try:
            return await super().connect(req, traces, timeout)
        except aiohttp.ClientHttpProxyError as error:
            # Any other refusal may be about the target.
            raise ProxyFailed(
                f"answers CONNECT with {error.status}", is_certain=error.status == 407
            ) from error
        except TimeoutError as error:
            raise ProxyFailed("gives no connection in time", is_certain=False) from error
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError) as error:
            is_own = (error.host, error.port) == (req.proxy.host, req.proxy.port)
            is_tls = isinstance(error, _TLS_ERRORS)
            if is_tls and not is_own:
                raise
            reason = name_failure(error)[1]
            raise ProxyFailed(reason, is_certain=is_own) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProxyFailed(name_failure(error)[1], is_certain=False) from error


class _Clock:
    """The time of one send, which stands still while it waits for a slot: that of a redirect, or
    another one where the connection took too long. `redirected` is the status of the redirect that
    is being followed: the source has answered, whatever becomes of it."""

    redirected: int | None = None

    def __init__(
        self,
        timeout_seconds: float,
        before_hop: BeforeHop | None,
        after_connect: AfterConnect | None,
    ) -> None:
        self.timeout = asyncio.timeout(timeout_seconds)
        self._before_hop = before_hop
        self._after_connect = after_connect
        self._began = time.perf_counter()

    async def pause(self, target: URL) -> None:
        if self._before_hop is not None:
            await self._pause_for(self._before_hop(target))

    async def pause_connected(self) -> None:
        wait = self._after_connect() if self._after_connect is not None else None
        if wait is not None:
            await self._pause_for(wait)

    async def _pause_for(self, wait: Awaitable[None]) -> None:
        loop, ends_at = asyncio.get_running_loop(), self.timeout.when()
        paused_at = loop.time()
        self.timeout.reschedule(None)
        await wait
        paused_seconds = loop.time() - paused_at
        self._began += paused_seconds
        self.timeout.reschedule(None if ends_at is None else ends_at + paused_seconds)

    def read_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


class _Hop(NamedTuple):
    """One request of a send. A hop that answers with a redirect gives the next one."""

    method: str
    target: URL
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Redirected:
    status: int
    location: str


@dataclass(frozen=True, slots=True)
class _Way:
    """A proxy for one scheme. `label` is what people may see of it."""

    label: str
    url: str


class Transport:
    """A pooled aiohttp session for one source; `async with` it.

    `timeout_seconds` bounds one send from connect to last byte, redirects included. Headers of the
    source go to the origin of `request.url` only. `rotation` knows which proxies rest; `tls` is
    for certificates beyond those that the machine trusts.
    """

    def __init__(
        self,
        part: RequestPart,
        *,
        guard: AddressGuard,
        concurrency: int,
        max_body_bytes: int,
        rotation: Rotation | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_seconds = part.timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._concurrency = concurrency
        data = {"request": part.model_dump(mode="json", by_alias=True)}
        self._redact = Redactor(detach_secrets(data)[1].values())
        self._guard = guard
        self._tls = tls
        self._rotation = rotation or Rotation()
        self._ways = {scheme: _find_ways(part, scheme) for scheme in ("http", "https")}
        self._proxy_timeout = aiohttp.ClientTimeout(
            total=None, connect=min(PROXY_CONNECT_SECONDS, part.timeout_seconds / 3)
        )
        self._turn = 0
        self._checked: dict[tuple[str, int], tuple[float, list[str]]] = {}

    async def __aenter__(self) -> Self:
        self._resolver = _NotingResolver()
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._concurrency,
                resolver=self._resolver,
                socket_factory=self._guard.socket_factory(self._resolver.names_of),
                ttl_dns_cache=60,
                keepalive_timeout=KEPT_SECONDS,
                ssl=True if self._tls is None else self._tls,
            ),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED,
            },
            auto_decompress=False,  # see ingest.fetch.decoding
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
        self,
        request: PreparedRequest,
        *,
        before_hop: BeforeHop | None = None,
        after_connect: AfterConnect | None = None,
    ) -> Reply:
        """`before_hop` is awaited before a redirect is followed, with its target: that is a send of
        its own to the server that counts. `after_connect` is called when the connection stands,
        before anything is sent on it, and what it gives is awaited. Their time is not that of the
        send."""
        clock = _Clock(self._timeout_seconds, before_hop, after_connect)
        _clock.set(clock)
        try:
            async with clock.timeout:
                reply = await self._exchange(request, clock)
        except TimeoutError:
            reply = Reply(
                status=clock.redirected,
                failure="timeout",
                reason=f"no whole answer in {self._timeout_seconds:g} s",
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure, reason = name_failure(error)
            reply = Reply(status=clock.redirected, failure=failure, reason=reason)
        return reply if reply.latency_ms else reply._replace(latency_ms=clock.read_ms())

    async def _exchange(self, request: PreparedRequest, clock: _Clock) -> Reply:
        # Encoded: yarl would turn %3B and its like in a key back into what they must not be.
        hop = first = _Hop(request.method, URL(request.url, encoded=True), request.headers)
        answer = await self._visit(hop, clock)
        redirects = 0
        while isinstance(answer, _Redirected):
            redirects += 1
            if redirects > MAX_REDIRECTS:
                reason = f"more than {MAX_REDIRECTS} redirects"
                return Reply(status=answer.status, failure="redirect_loop", reason=reason)
            target = _join(hop.target, answer.location)
            if target is None:
                reason = "redirected to what is not a valid http or https address"
                return Reply(status=answer.status, failure="redirect", reason=reason)
            method, headers = hop.method, hop.headers
            if target.origin() != first.target.origin():
                # The source's headers may be secrets: they are for its own origin alone.
                headers = {}
                if self._redact(str(target)) != str(target):
                    reason = "redirected to another address with a secret in it"
                    return Reply(status=answer.status, failure="redirect", reason=reason)
            if (answer.status == 303 and method != "HEAD") or (
                answer.status in {301, 302} and method == "POST"
            ):
                method = "GET"
            hop = _Hop(method, target, headers)
            clock.redirected = answer.status
            await clock.pause(target)
            answer = await self._visit(hop, clock)
        return answer

    async def _visit(self, hop: _Hop, clock: _Clock) -> Reply | _Redirected:
        ways = self._ways[hop.target.scheme]
        if not ways:
            return await self._ask(hop, clock)
        await self._check_behind_proxy(hop.target)
        return await self._ask_through(ways, hop, clock)

    async def _ask(self, hop: _Hop, clock: _Clock, way: _Way | None = None) -> Reply | _Redirected:
        try:
            return await self._ask_once(hop, way, clock)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            idle = _idle_seconds.get()
            if idle is None or idle < STALE_AFTER_SECONDS or hop.method not in _REPEATABLE:
                raise
        # It counts with the server, should the request have reached it after all.
        await clock.pause(hop.target)
        _wants_new.set(True)
        try:
            return await self._ask_once(hop, way, clock)
        finally:
            _wants_new.set(False)

    async def _ask_once(self, hop: _Hop, way: _Way | None, clock: _Clock) -> Reply | _Redirected:
        async with self._session.request(
            hop.method,
            hop.target,
            headers=hop.headers,
            proxy=way.url if way else None,
            timeout=self._proxy_timeout if way else None,
            allow_redirects=False,
        ) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return _Redirected(response.status, response.headers["Location"])
            return await self._read(response, clock)

    async def _ask_through(
        self, ways: dict[str, _Way], hop: _Hop, clock: _Clock
    ) -> Reply | _Redirected:
        """Through the next proxy that works. The upstream never saw what a proxy failed to carry,
        so that the row goes through another one in the same attempt."""
        labels = list(ways)
        self._turn += 1
        faults: dict[str, ProxyFailed] = {}
        while len(faults) < PROXIES_PER_SEND:
            label = self._rotation.choose(labels, turn=self._turn, avoid=faults)
            if label is None:
                break
            since = time.time()
            try:
                answer = await self._ask(hop, clock, ways[label])
            except ProxyFailed as fault:
                faults[label] = fault
                if fault.is_certain:
                    self._rotation.note_failure(label, fault.reason, since=since)
                continue
            except (aiohttp.ClientConnectionError, OSError, asyncio.CancelledError):
                # The connection through it broke, or the time of the send ran out in it.
                self._rotation.note_doubt(label, "brings no answers", since=since)
                raise
            # In a tunnel it is the target that says so, like any other status.
            is_proxy_asking = isinstance(answer, Reply) and answer.status == 407
            if is_proxy_asking and hop.target.scheme == "http":
                faults[label] = ProxyFailed("answers with 407", is_certain=True)
                self._rotation.note_failure(label, "answers with 407", since=since)
                # Should the target have said so after all, the next try is a send of its own.
                await clock.pause(hop.target)
                continue
            self._rotation.note_success(label)
            for other, doubt in faults.items():
                if not doubt.is_certain:  # another one got through: it was not the target
                    self._rotation.note_failure(other, doubt.reason, since=since)
            return answer
        return _name_proxy_faults(faults)

    async def _check_behind_proxy(self, target: URL) -> None:
        """Behind a proxy no socket of ours goes to the target, so its addresses are checked here.

        A name that this machine cannot resolve is the proxy's to judge.
        """
        host, port = target.host or "", target.port or 0
        known_until, addresses = self._checked.get((host, port), (0.0, []))
        if known_until < time.monotonic():
            addresses = await _resolve(host, port)
            self._checked[host, port] = time.monotonic() + RESOLVED_SECONDS, addresses
        for address in addresses:
            self._guard.check(address, port, host=host)

    async def _read(self, response: aiohttp.ClientResponse, clock: _Clock) -> Reply:
        headers = response.headers
        content_type = headers.get("Content-Type", "")
        coding = headers.get("Content-Encoding")
        if coding is not None:
            coding = ", ".join(headers.getall("Content-Encoding"))
        body = BodyDecoder(coding, limit=self._max_body_bytes)
        broken = ""
        try:
            await self._read_body(response, body)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            broken = _describe_break(error)
        return Reply(
            status=response.status,
            content_type=content_type,
            charset=_charset_of(content_type) if ";" in content_type else None,
            retry_after=headers.get("Retry-After"),
            body=body.finish(),
            is_too_large=body.is_full,
            coding_fault=body.fault,
            failure="broken_off" if broken else "",
            reason=broken,
            latency_ms=clock.read_ms(),
        )

    async def _read_body(self, response: aiohttp.ClientResponse, body: BodyDecoder) -> None:
        content = response.content
        while chunk := await content.readany():
            body.feed(chunk)
            if body.is_full or body.fault:
                response.close()
                return
            if content.at_eof() and content.exception() is None:
                return


def _find_ways(part: RequestPart, scheme: str) -> dict[str, _Way]:
    """The proxies for a scheme by label. One without a URL for it is passed over; two at one
    address may differ in their user, so that the place in the list belongs to the label."""
    ways = {}
    for index, proxy in enumerate(part.proxies):
        if url := proxy.https if scheme == "https" else proxy.http:
            parts = urlsplit(url)
            label = f"proxies[{index}] {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            ways[label] = _Way(label, url)
    return ways


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in found]


def _name_proxy_faults(faults: dict[str, ProxyFailed]) -> Reply:
    is_refused = all(_is_address_refused(fault) for fault in faults.values())
    told = "; ".join(f"{label}: {fault.reason}" for label, fault in list(faults.items())[:3])
    return Reply(
        failure="refused_address" if faults and is_refused else "proxy",
        reason=f"no proxy could be used. {told}",
    )


_TLS_ERRORS = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)


def name_failure(error: BaseException) -> tuple[str, str]:
    """(stable kind, text for people without addresses that could hold secrets) of an exception."""
    for each in _causes(error):
        if isinstance(each, AddressRefused):
            return "refused_address", str(each)
    if isinstance(error, _TLS_ERRORS):
        return "tls", f"TLS failed: {_text_of(error)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", f"the host {error.host} cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection_refused", f"cannot connect: {_text_of(error.os_error)}"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "connection_reset", "the connection was closed before an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", f"not HTTP as it should be: {_quote_head(error)}"[:KEPT_CHARACTERS]
    if isinstance(error, aiohttp.InvalidURL):
        # 127.1, 2130706433 and their like: addresses in a spelling that only some programs read.
        return "refused_address", "the host is not written as a name or a plain address"
    if isinstance(error, aiohttp.ClientOSError):
        return "connection_reset", f"the connection broke: {_text_of(error)}"
    if isinstance(error, ValueError):
        return "unsendable", "the address or a header of the request is not valid"
    return "connection", type(error).__name__


def _is_address_refused(error: BaseException) -> bool:
    return any(isinstance(each, AddressRefused) for each in _causes(error))


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


def _quote_head(error: aiohttp.ClientResponseError) -> str:
    if error.request_info.method == hdrs.METH_CONNECT:
        # Its reason is told as that of the proxy, which nobody redacts.
        return "the answer to CONNECT"
    return _quote(error.message)


def _describe_break(error: BaseException) -> str:
    """Why a transfer broke off: what aiohttp's parser missed, else the kind of the error."""
    detail = getattr(error.__cause__, "message", "") or str(error) or type(error).__name__
    return f"the transfer broke off: {_quote(str(detail))}"[:KEPT_CHARACTERS]


def _quote(message: str) -> str:
    """Whole: a secret in it is to be found before it is cut. Of a long line, aiohttp quotes the
    beginning alone, which may be half a secret."""
    return " ".join(message.partition(" when reading: ")[0].split())


def _join(url: URL, location: str) -> URL | None:
    """Where a redirect leads, without user and fragment; None where that is no http(s) address.

    Its host is found by the same parser that opens the connection: two that disagree about the
    host of an odd address would send secrets to the wrong one. Path and query go out as they came,
    where they can: a signed address loses its worth when %2F becomes a slash.
    """
    try:
        target = url.join(URL(location))
        host = target.raw_host
        if target.scheme not in {"http", "https"} or not host or target.port == 0:
            return None
        if len(host) > MAX_HOST:
            return None
        exact = url.join(URL(location, encoded=True)) if _LEGAL.fullmatch(location) else target
        return URL(f"{target.origin()}{exact.raw_path_qs}", encoded=True)
    except ValueError:
        return None


# What a URI may hold (RFC 3986).
_LEGAL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")


def _charset_of(content_type: str) -> str | None:
    for part in content_type.split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None

"""Servers that bend HTTP or break it, byte by byte: each answer has one outcome, by the RFC."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from aiohttp import web

from ingest.fetch import transport
from ingest.fetch.answers import Reply, Verdict
from ingest.fetch.transport import STALE_AFTER_SECONDS, Transport
from ingest.outcomes import Outcome
from ingest.plans import prepare_request
from tests.ingest.certificates import serve_as, trust
from tests.ingest.test_transport import OPEN, configure, json_answer, send
from tests.ingest.upstream import Handler, raw_upstream, scripted_upstream

BODY = b'[{"id":1}]'
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 10\r\n"
GOOD = OK + LENGTH + b"\r\n" + BODY
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"


async def ask_raw(raw: bytes) -> tuple[Reply, Verdict]:
    """What becomes of an answer that is sent in one piece, and of the same in many."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    with raw_upstream(play) as url:
        return await send(configure(url, timeout_seconds=20))


@pytest.mark.parametrize(
    ("raw", "outcome", "error"),
    [
        # What the RFC lets pass, or asks a client to bear.
        (GOOD, "delivered", ""),
        (b"HTTP/1.0 200 OK\r\n\r\n" + BODY, "delivered", ""),
        (b"HTTP/1.0 200 ok\r\ncontent-LENGTH: 10\r\n\r\n" + BODY, "delivered", ""),
        (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY, "delivered", ""),
        (GOOD.replace(b"\r\n", b"\n"), "delivered", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, "delivered", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + GOOD, "delivered", ""),
        (b"HTTP/1.1 103 E\r\n\r\n" * 300 + GOOD, "delivered", ""),
        (CHUNKED + b"\r\na\r\n" + BODY + b"\r\n0\r\n\r\n", "delivered", ""),
        (CHUNKED.upper() + b"\r\nA;x=y\r\n" + BODY + b"\r\n0\r\nX-Sum: 1\r\n\r\n", "delivered", ""),
        (OK + b"X-A: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY, "delivered", ""),
        (OK + b"X-A: \xff\xfe\r\n" + LENGTH + b"\r\n" + BODY, "delivered", ""),
        # Longer than announced: the announced length is the answer.
        (GOOD + b"EXTRA", "delivered", ""),
        (GOOD + GOOD, "delivered", ""),
        (CHUNKED + b"\r\na\r\n" + BODY + b"\r\n0\r\n\r\nEXTRA", "delivered", ""),
        (OK + b"Content-Length: 5\r\n\r\n" + BODY, "malformed", "not_json"),
        # No content by their status, whatever follows.
        (b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\n" + BODY, "empty", "empty"),
        (b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "empty", "empty"),
        (b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n" + BODY, "failed", "http_304"),
        (OK + b"Content-Length: 0\r\n\r\n", "empty", "empty"),
        (OK + b"\r\n", "empty", "empty"),
        # Final statuses that are no answer.
        (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "failed", "http_101"),
        (b"HTTP/1.1 302 Found\r\n" + LENGTH + b"\r\n" + BODY, "failed", "http_302"),
        (b"HTTP/1.1 300 Many\r\nLocation: /x\r\n" + LENGTH + b"\r\n" + BODY, "failed", "http_300"),
        (b"HTTP/1.1 999 Odd\r\n" + LENGTH + b"\r\n" + BODY, "failed", "http_999"),
        # Shorter than announced, cut off, or without its end.
        (OK + b"Content-Length: 100\r\n\r\n" + BODY, "failed", "broken_off"),
        (OK + b"Content-Length: 9999999999999\r\n\r\n" + BODY, "failed", "broken_off"),
        (CHUNKED + b"\r\na\r\n" + BODY + b"\r\n", "failed", "broken_off"),
        (CHUNKED + b"\r\nzz\r\n" + BODY, "failed", "broken_off"),
        (CHUNKED + b"\r\n-a\r\n" + BODY + b"\r\n0\r\n\r\n", "failed", "broken_off"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "failed", "connection_reset"),
        (b"HTTP/1.1 20", "failed", "connection_reset"),
        # Lengths that contradict each other may hide a second answer (RFC 9112 §6.3).
        (OK + LENGTH + b"Content-Length: 12\r\n\r\n" + BODY, "failed", "protocol"),
        (OK + b"Content-Length: -1\r\n\r\n" + BODY, "failed", "protocol"),
        (OK + b"Content-Length: +10\r\n\r\n" + BODY, "failed", "protocol"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY, "failed", "protocol"),
        (CHUNKED + LENGTH + b"\r\na\r\n" + BODY + b"\r\n0\r\n\r\n", "failed", "protocol"),
        (OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "failed", "protocol"),
        # No HTTP.
        (BODY, "failed", "protocol"),
        (b"ICY 200 OK\r\n\r\n" + BODY, "failed", "protocol"),
        (b"HTTP/1.1 1000 X\r\n\r\n", "failed", "protocol"),
        (OK + b"X Y: a\r\n" + LENGTH + b"\r\n" + BODY, "failed", "protocol"),
        (OK + b"X: a\0b\r\n" + LENGTH + b"\r\n" + BODY, "failed", "protocol"),
        # Ten megabytes of headers, three ways.
        (OK + b"X: " + b"a" * 10_000_000 + b"\r\n\r\n", "failed", "protocol"),
        (OK + b"".join(b"X-%d: %060000d\r\n" % (n, n) for n in range(170)), "failed", "protocol"),
        (b"HTTP/1.1 200 " + b"a" * 10_000_000 + b"\r\n\r\n", "failed", "protocol"),
    ],
)  # fmt: skip
async def test_every_answer_has_one_outcome(raw: bytes, outcome: str, error: str):
    reply, verdict = await ask_raw(raw)
    assert (verdict.outcome, verdict.error) == (outcome, error), reply.reason
    if outcome == "delivered":
        assert [record.key for record in verdict.records] == ["1"]
    else:
        assert verdict.evidence is not None
        assert verdict.evidence["reason"]
        assert "\n" not in verdict.evidence["reason"]


async def test_junk_that_comes_later_changes_nothing_and_reaches_nobody_else():
    said = threading.Semaphore(0)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"EXTRA")
        said.release()
        await reader.read(1_000)

    with raw_upstream(play) as url:
        configuration = configure(url)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            for _ in range(3):
                reply = await transport.send(prepare_request(configuration, "1"))
                assert reply.body == BODY
                async with asyncio.timeout(10):
                    while not said.acquire(blocking=False):
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)  # on loopback it has arrived, and is read in these rounds


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (OK, b"X-%d: a\r\n"),
        (OK + b"X-A: ", b"a"),
        (OK + b"Content-Length: 1000\r\n\r\n", b" "),
        (CHUNKED + b"\r\n", b"1\r\n \r\n"),
        (b"", b"HTTP/1.1 103 E\r\n\r\n"),
        (OK + b"\r\n", b" "),
    ],
)
async def test_what_drips_without_end_ends_with_the_time_of_the_send(first: bytes, drop: bytes):
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for number in range(300):
            writer.write(drop % number if b"%d" in drop else drop)
            await writer.drain()
            await asyncio.sleep(0.02)

    with raw_upstream(play) as url:
        reply, verdict = await send(configure(url, timeout_seconds=0.2))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "timeout")
    assert reply.latency_ms < 5_000  # the drops last for 6 s


async def test_a_body_without_end_is_malformed_at_the_limit():
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n[")
        while not writer.is_closing():
            writer.write(b" " * 65_536)
            await writer.drain()

    with raw_upstream(play) as url:
        reply, verdict = await send(configure(url))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "too_large")
    assert len(reply.body) == 100_000


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[" + b"[]," * 200_000 + b"[]]", "too_many"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
        (b'[{"id": 1, "n": NaN}]', "number"),
        (b'[{"id": 1, "n": %s}]' % (b"9" * 5_000), "number"),
        (b'[{"id": "%s"}]' % (b"k" * 10_000), "key"),
        (b'[{"id": null}]', "key"),
        (b'[{"id": 1}, {"id": [1]}, 5, "x", null]', "key"),
        (b'[{"id": 1, "t": "\xff\xfe"}]', "undecodable"),
        (b'[{"id": 1, "t": "\\ud800"}]', "surrogate"),
        (b'[{"id": 1, "t": "\\u0000"}]', "null_character"),
        (b'[{"id": 1}', "not_json"),
        (b"  <!DOCTYPE html><p>Please log in</p>", "html"),
    ],
)
async def test_json_that_hurts_is_malformed_by_name(body: bytes, error: str):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    with scripted_upstream(answer) as up:
        _, verdict = await send(configure(up.url, max_body_bytes=2_000_000))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, error)
    assert len(json.dumps(verdict.evidence)) < 3_000


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", BODY),
        ("image/png", BODY),
        ("application/json; charset=utf-16", '[{"id": 1, "t": "ağaç"}]'.encode("utf-16")),
        ('application/json; charset="ISO-8859-9"', '[{"id":1,"t":"ağaç"}]'.encode("latin5")),
        ("application/json;;charset", BODY),
        ("application/json; charset=iso-8859-1", b"\xef\xbb\xbf" + BODY),
    ],
)
async def test_a_content_type_that_lies_or_names_a_charset_is_no_hindrance(
    content_type: str, body: bytes
):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": content_type})

    with scripted_upstream(answer) as up:
        _, verdict = await send(configure(up.url))
    assert verdict.outcome == Outcome.DELIVERED
    assert '"t"' not in verdict.records[0].data or "ağaç" in verdict.records[0].data


# ---- kept connections


class _Host:
    """Answers `each` times per connection, then closes it the way that it is told."""

    def __init__(self, *, idle: float, answers_second: bool = False) -> None:
        self.idle = idle
        self.answers_second = answers_second
        self.connections = self.requests = 0

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.requests += 1
        writer.write(GOOD)
        await writer.drain()
        # The second request is read, and the connection closed without a word.
        if self.connections == 1:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1


async def _send_twice(host: _Host, method: str = "GET") -> list[Reply]:
    with raw_upstream(host.play) as url:
        configuration = configure(url, method=method)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            first = await transport.send(prepare_request(configuration, "1"))
            await asyncio.sleep(host.idle)
            return [first, await transport.send(prepare_request(configuration, "2"))]


async def test_a_connection_that_the_server_closed_while_idle_costs_no_attempt():
    host = _Host(idle=STALE_AFTER_SECONDS + 0.1)
    replies = await _send_twice(host)
    assert [reply.status for reply in replies] == [200, 200]
    assert host.connections == 2


async def test_a_connection_that_dies_in_use_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport, "STALE_AFTER_SECONDS", 60.0)  # however late this machine is
    host = _Host(idle=0.0)
    replies = await _send_twice(host)
    assert [reply.failure for reply in replies] == ["", "connection_reset"]
    assert host.requests == 2


async def test_a_post_is_not_repeated_on_a_guess():
    host = _Host(idle=STALE_AFTER_SECONDS + 0.1)
    replies = await _send_twice(host, method="POST")
    assert [reply.failure for reply in replies] == ["", "connection_reset"]


async def test_connections_are_kept_between_sends():
    peers = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response([{"id": 1}])

    with scripted_upstream(answer) as up:
        configuration = configure(up.url)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            for _ in range(5):
                await transport.send(prepare_request(configuration, "1"))
    assert len(peers) == 1


# ---- redirects


def redirect(location: str, status: int = 302) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/items/"):
            return web.Response(status=status, headers={"Location": location})
        return web.json_response([{"id": 1, "method": request.method}])

    return answer


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "/b"),
        ("b", "/items/b"),
        ("../b?x=1", "/b?x=1"),
        ("/b#part", "/b"),
        ("?x=1", "/items/1?x=1"),
        ("/b%2Fc%3Bd?sig=a%2Fb%2B", "/b%2Fc%3Bd?sig=a%2Fb%2B"),
        ("/ü x", "/%C3%BC%20x"),
    ],
)
async def test_a_relative_redirect_leads_where_the_rfc_says(location: str, target: str):
    async def answer(request: web.Request) -> web.Response:
        if request.raw_path == "/items/1":
            return web.Response(status=302, headers={"Location": location})
        return web.json_response([{"id": 1}])

    with scripted_upstream(answer) as up:
        _, verdict = await send(configure(up.url))
    assert verdict.outcome == Outcome.DELIVERED
    assert up.targets == ["/items/1", target]


@pytest.mark.parametrize(
    ("status", "sent", "arrives"),
    [
        (301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (303, "PUT", "GET"),
        (307, "POST", "POST"), (308, "PUT", "PUT"), (302, "PUT", "PUT"), (302, "GET", "GET"),
    ],
)  # fmt: skip
async def test_the_method_changes_only_where_the_rfc_says(status: int, sent: str, arrives: str):
    with scripted_upstream(redirect("/b", status)) as up:
        _, verdict = await send(configure(up.url, method=sent))
    assert arrives in verdict.records[0].data


async def test_a_head_stays_a_head():
    methods = []

    async def answer(request: web.Request) -> web.Response:
        methods.append(request.method)
        if request.path.startswith("/items/"):
            return web.Response(status=303, headers={"Location": "/b"})
        return web.Response()

    with scripted_upstream(answer) as up:
        await send(configure(up.url, method="HEAD"))
    assert methods == ["HEAD", "HEAD"]


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://h/x", "data:,x", "http://[", f"http://{'a' * 60}.{'b' * 200}/"],
)
async def test_a_redirect_to_what_is_no_http_address_is_failed(location: str):
    with scripted_upstream(redirect(location)) as up:
        reply, verdict = await send(configure(up.url))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "redirect")
    assert (reply.status, up.targets) == (302, ["/items/1"])


@pytest.mark.parametrize("form", ["http://{}", "//{}", "http://me:you@{}"])
async def test_headers_stay_behind_on_the_way_to_another_origin(form: str):
    with scripted_upstream(json_answer()) as other:
        place = other.url.removeprefix("http://")
        with scripted_upstream(redirect(form.format(place) + "/b")) as up:
            _, verdict = await send(
                configure(up.url, headers={"Authorization": "Bearer hush-hush", "Cookie": "a=b"})
            )
    assert verdict.outcome == Outcome.DELIVERED
    assert not {"Authorization", "Cookie"} & other.seen[0][1].keys()


async def test_headers_stay_behind_from_https_to_http_of_one_host():
    with (
        scripted_upstream(json_answer()) as plain,
        scripted_upstream(redirect(plain.url + "/b"), tls=serve_as()) as up,
    ):
        configuration = configure(up.url, headers={"Authorization": "Bearer hush-hush"})
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000, tls=trust()
        ) as transport:
            reply = await transport.send(prepare_request(configuration, "1"))
    assert reply.status == 200
    assert "Authorization" in up.seen[0][1]
    assert "Authorization" not in plain.seen[0][1]


async def test_the_way_back_home_does_not_bring_the_headers_back():
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/home":
            return web.json_response([{"id": 1}])
        return web.Response(status=302, headers={"Location": other.url + "/b"})

    async def send_back(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": up.url + "/home"})

    with scripted_upstream(send_back) as other, scripted_upstream(answer) as up:
        await send(configure(up.url, headers={"Authorization": "Bearer hush-hush"}))
    assert "Authorization" not in up.seen[1][1]


# ---- certificates


@pytest.mark.parametrize(
    ("host", "days_left", "is_trusted", "reason"),
    [
        ("127.0.0.1", -1, True, "certificate has expired"),
        ("example.org", 30, True, "IP address mismatch"),
        ("127.0.0.1", 30, False, "unable to get local issuer certificate"),
    ],
)
async def test_a_bad_certificate_is_failed_by_its_reason(
    host: str, days_left: int, is_trusted: bool, reason: str
):
    with scripted_upstream(json_answer(), tls=serve_as(host, days_left=days_left)) as up:
        configuration = configure(up.url)
        async with Transport(
            configuration.request,
            guard=OPEN,
            concurrency=1,
            max_body_bytes=1_000,
            tls=trust() if is_trusted else None,
        ) as transport:
            reply = await transport.send(prepare_request(configuration, "1"))
    assert (reply.failure, up.seen) == ("tls", [])
    assert reason in reply.reason


async def test_tls_on_a_port_that_speaks_none_is_a_tls_failure():
    with scripted_upstream(json_answer()) as up:
        reply, _ = await send(configure(up.url.replace("http:", "https:")))
    assert reply.failure == "tls"


# ---- what arrives at the server


@pytest.mark.parametrize(
    ("key", "segment"),
    [
        ("a;b", "a%3Bb"), ("a&b", "a%26b"), ("a=b", "a%3Db"), ("a b", "a%20b"), ("a/b", "a%2Fb"),
        ("ü", "%C3%BC"), ("50%", "50%25"), ("%2F", "%252F"), ("a?b", "a%3Fb"), ("a#b", "a%23b"),
        ("a..b", "a..b"), ("...", "..."), ("a+b", "a%2Bb"), ("😀", "%F0%9F%98%80"), ("'", "%27"),
        ("{id}", "%7Bid%7D"), ("a\\b", "a%5Cb"), ("a:b@c", "a%3Ab%40c"), ("~-_.", "~-_."),
    ],
)  # fmt: skip
async def test_a_key_arrives_byte_for_byte_as_it_was_encoded(key: str, segment: str):
    with scripted_upstream(json_answer()) as up:
        configuration = configure(up.url, params={"q": "{id}"})
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            await transport.send(prepare_request(configuration, key))
    (target,) = up.targets
    assert target.partition("?")[0] == f"/items/{segment}"


async def test_the_fixed_part_of_the_address_goes_out_as_it_was_written():
    with scripted_upstream(json_answer()) as up:
        template = up.url.upper().replace("HTTP", "http") + "/ü x/%2F;%3b/{id}.json?a=%2F&b={id}#f"
        configuration: Any = configure(up.url)
        part = configuration.request.model_copy(update={"url": template})
        configuration = configuration.model_copy(update={"request": part})
        async with Transport(part, guard=OPEN, concurrency=1, max_body_bytes=1_000) as transport:
            await transport.send(prepare_request(configuration, "1/2"))
    assert up.targets == ["/%C3%BC%20x/%2F;%3b/1%2F2.json?a=%2F&b=1%2F2"]


async def test_a_slow_answer_within_the_time_is_delivered():
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for byte in BODY:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.005)
        return response

    with scripted_upstream(answer) as up:
        began = time.monotonic()
        _, verdict = await send(configure(up.url))
    assert verdict.outcome == Outcome.DELIVERED
    assert time.monotonic() - began >= 0.05

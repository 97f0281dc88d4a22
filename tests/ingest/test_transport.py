"""The transport and the classifier against real servers that behave badly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from ingest.configuration import SourceConfiguration, parse_configuration
from ingest.fetch.answers import Reply, Verdict
from ingest.fetch.classify import Classifier, is_repeated
from ingest.fetch.guard import AddressGuard
from ingest.fetch.transport import Transport
from ingest.outcomes import Outcome
from ingest.plans import prepare_request
from ingest.secrets import Redactor
from tests.ingest.upstream import raw_upstream, scripted_upstream

OPEN = AddressGuard(allow_private=True)


def configure(url: str, **request: Any) -> SourceConfiguration:
    limits = {"max_body_bytes": request.pop("max_body_bytes", 100_000)}
    return parse_configuration(
        {
            "slug": "x",
            "request": {"url": url + "/items/{id}", "timeout_seconds": 5, **request},
            "plan": {"type": "values", "name": "id", "values": ["1"]},
            "limits": limits,
        }
    )


async def send(
    configuration: SourceConfiguration, guard: AddressGuard = OPEN
) -> tuple[Reply, Verdict]:
    async with Transport(
        configuration.request,
        guard=guard,
        concurrency=2,
        max_body_bytes=configuration.limits.max_body_bytes,
    ) as transport:
        reply = await transport.send(prepare_request(configuration, "1"))
    return reply, Classifier.of(configuration, redact=Redactor([])).classify(reply)


def json_answer(data: object = ({"id": 1},), **kwargs: Any) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(list(data) if isinstance(data, tuple) else data, **kwargs)

    return answer


async def test_a_good_answer_is_delivered_with_its_latency():
    with scripted_upstream(json_answer()) as upstream:
        reply, verdict = await send(configure(upstream.url, headers={"X-A": "b"}))
    assert verdict.outcome == Outcome.DELIVERED
    assert [record.key for record in verdict.records] == ["1"]
    assert reply.latency_ms > 0
    path, headers = upstream.seen[0]
    assert (path, headers["X-A"]) == ("/items/1", "b")


@pytest.mark.parametrize(
    ("status", "outcome", "again"),
    [
        (200, Outcome.DELIVERED, False),
        (201, Outcome.DELIVERED, False),
        (204, Outcome.EMPTY, False),
        (304, Outcome.FAILED, False),
        (400, Outcome.FAILED, False),
        (401, Outcome.DENIED, False),
        (403, Outcome.DENIED, False),
        (404, Outcome.MISSING, False),
        (408, Outcome.FAILED, True),
        (410, Outcome.MISSING, False),
        (418, Outcome.FAILED, False),
        (425, Outcome.FAILED, True),
        (429, Outcome.REFUSED, True),
        (500, Outcome.FAILED, True),
        (503, Outcome.FAILED, True),
        (599, Outcome.FAILED, True),
    ],
)
async def test_each_status_has_one_outcome(status: int, outcome: Outcome, again: bool):
    with scripted_upstream(json_answer(status=status)) as upstream:
        reply, verdict = await send(configure(upstream.url))
    assert verdict.outcome == outcome
    assert is_repeated(verdict, reply.status) is again
    if outcome != Outcome.DELIVERED:
        assert verdict.evidence is not None
        assert verdict.evidence["status"] == status


async def test_html_with_200_is_malformed_and_its_first_characters_are_kept():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="<html>Please log in\x00</html>", content_type="text/html")

    with scripted_upstream(answer) as upstream:
        _, verdict = await send(configure(upstream.url))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "html")
    assert verdict.evidence is not None
    assert verdict.evidence["first_characters"] == "<html>Please log in\ufffd</html>"


async def test_a_body_over_the_limit_is_malformed_and_reading_stops_there():
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(800):  # 50 MB
            await response.write(b" " * 65_536)
            sent += 65_536
        return response

    with scripted_upstream(answer) as upstream:
        reply, verdict = await send(configure(upstream.url))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "too_large")
    assert len(reply.body) == 100_000
    assert sent < 20_000_000


async def test_a_body_of_exactly_the_limit_is_read():
    body = b'[{"id": 1}]'.ljust(100_000)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    with scripted_upstream(answer) as upstream:
        _, verdict = await send(configure(upstream.url))
    assert verdict.outcome == Outcome.DELIVERED


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (b"", "connection_reset"),
        (b"garbage\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[{", "broken_off"),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[{"i', "broken_off"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 10_000_000 + b"\r\n\r\n", "protocol"),
    ],
)
async def test_a_broken_transfer_is_failed_whatever_was_read(raw: bytes, failure: str):
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    with raw_upstream(play) as url:
        _, verdict = await send(configure(url))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, failure)


async def test_a_slow_drip_ends_with_the_timeout_of_the_whole_send():
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    with raw_upstream(play) as url:
        reply, verdict = await send(configure(url, timeout_seconds=0.4))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "timeout")
    assert 350 < reply.latency_ms < 3000


async def test_nobody_listening_and_an_unknown_host_are_failed():
    _, refused = await send(configure("http://127.0.0.1:9"))
    _, unknown = await send(configure("http://no-such-host.invalid"))
    assert (refused.outcome, refused.error) == (Outcome.FAILED, "connection_refused")
    assert (unknown.outcome, unknown.error) == (Outcome.FAILED, "dns")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "①②⑦.⓪.⓪.①"]
)
async def test_loopback_is_refused_in_any_spelling_unless_it_is_allowed(host: str):
    with scripted_upstream(json_answer()) as upstream:
        port = upstream.url.rpartition(":")[2]
        _, verdict = await send(configure(f"http://{host}:{port}"), AddressGuard())
    assert verdict.outcome == Outcome.FAILED
    assert verdict.error in {"refused_address", "dns"}
    assert upstream.seen == []


async def test_a_redirect_to_a_private_address_is_refused():
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    with scripted_upstream(answer) as upstream:
        host_and_port = upstream.url.removeprefix("http://")
        _, verdict = await send(configure(upstream.url), AddressGuard(allowed=(host_and_port,)))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "refused_address")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/", "http://["])
async def test_a_redirect_to_another_scheme_is_failed(location: str):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    with scripted_upstream(answer) as upstream:
        _, verdict = await send(configure(upstream.url))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "redirect")


async def test_a_redirect_loop_is_failed():
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound("/again")

    with scripted_upstream(answer) as upstream:
        _, verdict = await send(configure(upstream.url))
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "redirect_loop")
    assert len(upstream.seen) == 11


async def test_secrets_are_not_sent_to_another_origin():
    with scripted_upstream(json_answer()) as other:

        async def answer(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(other.url + "/elsewhere")

        with scripted_upstream(answer) as upstream:
            _, verdict = await send(
                configure(
                    upstream.url,
                    headers={"Authorization": "Bearer secret-1"},
                    api_key={"in": "header", "name": "X-Api-Key", "secret": "secret-2"},
                )
            )
    assert verdict.outcome == Outcome.DELIVERED
    assert upstream.seen[0][1]["Authorization"] == "Bearer secret-1"
    assert "secret" not in str(other.seen)


async def test_what_the_upstream_echoes_is_redacted_in_the_evidence():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=400, text=f"bad key {request.headers['X-Api-Key']}")

    with scripted_upstream(answer) as upstream:
        configuration = configure(
            upstream.url, api_key={"in": "header", "name": "X-Api-Key", "secret": "hush-hush"}
        )
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1000
        ) as transport:
            reply = await transport.send(prepare_request(configuration, "1"))
    verdict = Classifier.of(configuration, redact=Redactor(["hush-hush"])).classify(reply)
    assert "hush" not in str(verdict.evidence)
    assert "bad key ***" in str(verdict.evidence)


async def test_a_server_that_speaks_first_is_connected_to_once_for_each_send():
    connections = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await reader.read()

    with raw_upstream(speak, speaks_first=True) as url:
        configuration = configure(url)
        async with Transport(
            configuration.request, guard=OPEN, concurrency=1, max_body_bytes=1_000
        ) as transport:
            reply = await transport.send(
                prepare_request(configuration, "1"), after_connect=lambda: asyncio.sleep(0.05)
            )
    assert reply.failure == "connection_reset"
    assert connections == 1

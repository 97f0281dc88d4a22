from __future__ import annotations

import socket
from typing import Any

import pytest
from aiohttp import web

from ingest.fetch.guard import AddressGuard, AddressRefused, is_public
from ingest.fetch.transport import Transport
from ingest.models import Request
from ingest.outcomes import Outcome, RunState
from ingest.plans import prepare_request
from tests.ingest.test_pipeline import drive, make_source, start
from tests.ingest.test_transport import configure, json_answer, send
from tests.ingest.upstream import scripted_upstream


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::",
        "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "not-an-address", "fd00:ec2::254", "100.100.100.200",
        "64:ff9b:1::7f00:1", "::127.0.0.1", "::ffff:0:7f00:1", "::ffff:169.254.169.254",
        "192.0.0.8", "192.88.99.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1",
        "3fff::1", "100::1", "2001:0:7f00:1::", "2002:a9fe:a9fe::", "fec0::1", "0.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_public_internet_are_refused(address: str):
    assert not is_public(address)
    with pytest.raises(AddressRefused, match="PORTAL_ALLOWED_UPSTREAMS"):
        AddressGuard().check(address, 80)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_pass(address: str):
    assert is_public(address)
    AddressGuard().check(address, 443)


@pytest.mark.parametrize(
    ("entry", "is_allowed"),
    [
        ("10.0.0.0/8", True),
        ("10.1.2.3", True),
        ("10.1.2.3:8080", True),
        ("10.1.2.3:80", False),
        ("api.internal", True),
        ("api.internal:8080", True),
        ("api.internal:81", False),
        ("other.internal", False),
        ("internal", False),
        ("", False),
    ],
)
def test_the_allow_list_opens_hosts_ports_and_networks(entry: str, is_allowed: bool):
    guard = AddressGuard(allowed=(entry,))
    if is_allowed:
        guard.check("10.1.2.3", 8080, host="api.internal")
    else:
        with pytest.raises(AddressRefused):
            guard.check("10.1.2.3", 8080, host="api.internal")


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "0177.0.0.1", "0x7f000001", "0x7f.1", "2130706433", "017700000001", "0", "0.0.0.0",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]",
        "[fe80::1%25lo]", "[64:ff9b::7f00:1]", "LOCALHOST", "ⓛocalhost", "127。0。0。1",
        "１２７.0.0.1", "127.0.0.1.", "169.254.169.254", "localhost", "①②⑦.⓪.⓪.①",
    ],
)  # fmt: skip
async def test_no_spelling_of_an_inner_address_opens_a_connection(host: str):
    with scripted_upstream(json_answer()) as up:
        port = up.url.rpartition(":")[2]
        _, verdict = await send(configure(f"http://{host}:{port}"), AddressGuard())
        assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "refused_address")

        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": f"http://{host}:{port}/b"})

        with scripted_upstream(answer) as door:
            guard = AddressGuard(allowed=(door.url.removeprefix("http://"),))
            _, verdict = await send(configure(door.url), guard)
    assert (verdict.outcome, verdict.error) == (Outcome.FAILED, "refused_address")
    assert up.seen == []


async def test_a_name_that_leads_elsewhere_a_moment_later_is_checked_again(monkeypatch):
    real, asked = socket.getaddrinfo, []

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) > 1 else "127.0.0.2", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with scripted_upstream(json_answer(headers={"Connection": "close"})) as up:
        port = up.url.rpartition(":")[2]
        configuration = configure(f"http://rebind.example:{port}")
        async with Transport(
            configuration.request,
            guard=AddressGuard(allowed=("127.0.0.2",)),
            concurrency=1,
            max_body_bytes=1_000,
        ) as transport:
            request = prepare_request(configuration, "1")
            first = await transport.send(request)
            transport._session.connector.clear_dns_cache()  # type: ignore[union-attr]
            second = await transport.send(request)
    # Nobody listens on the first address: it was tried. The second one has the server.
    assert (first.failure, second.failure) == ("connection_refused", "refused_address")
    assert up.seen == []


@pytest.mark.django_db(transaction=True)
def test_a_run_to_an_inner_address_ends_soon_and_says_why(settings):
    settings.ALLOW_PRIVATE_UPSTREAMS = False
    with scripted_upstream(json_answer()) as up:
        limits = {"per_second": None, "deadline_seconds": 10}
        run = drive(start(make_source(up.url, stop=300, limits=limits, retry={"attempts": None})))
    assert (run.state, run.why_ended, up.seen) == (RunState.INCOMPLETE, "host down", [])
    rows = set(Request.objects.values_list("outcome", "error", "evidence__reason"))
    reason = "127.0.0.1 is not a public address; PORTAL_ALLOWED_UPSTREAMS can allow it"
    assert rows == {("failed", "refused_address", reason)}

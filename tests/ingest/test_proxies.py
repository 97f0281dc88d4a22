"""Proxies that work, fail and lie; real ones on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from ingest.fetch import rotation
from ingest.fetch.answers import Reply
from ingest.fetch.guard import AddressGuard
from ingest.fetch.rotation import OwnMemory, Rotation
from ingest.fetch.transport import Transport
from ingest.models import ErrorLog, Request, RunEvent
from ingest.outcomes import Outcome, RunState
from ingest.plans import prepare_request
from tests.ingest.certificates import serve_as, trust
from tests.ingest.proxies import running_proxy
from tests.ingest.test_pipeline import always_good, drive, make_source, start
from tests.ingest.test_transport import OPEN, configure, json_answer
from tests.ingest.upstream import scripted_upstream


@contextlib.contextmanager
def dead_proxy() -> Iterator[str]:
    """A port on which nobody listens, kept from everybody else."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://joe:hush-hush-1@127.0.0.1:{taken.getsockname()[1]}"


async def send_some(
    url: str,
    count: int,
    *,
    guard: AddressGuard = OPEN,
    memory: OwnMemory | None = None,
    **part: Any,
) -> list[Reply]:
    configuration = configure(url, **part)
    async with Transport(
        configuration.request,
        guard=guard,
        concurrency=2,
        max_body_bytes=100_000,
        rotation=Rotation(memory or OwnMemory()),
        tls=trust(),
    ) as transport:
        return [
            await transport.send(prepare_request(configuration, str(number)))
            for number in range(count)
        ]


async def test_the_proxies_carry_the_sends_in_turn():
    with scripted_upstream(json_answer()) as up, running_proxy() as one, running_proxy() as two:
        replies = await send_some(up.url, 4, proxies=[one.url, two.url])
    assert {reply.status for reply in replies} == {200}
    assert (len(one.seen), len(two.seen)) == (2, 2)


async def test_https_goes_through_a_tunnel_and_the_password_to_the_proxy_alone():
    with (
        scripted_upstream(json_answer(), tls=serve_as()) as up,
        running_proxy(
            credentials="joe:p%40ss%3Aword".replace("%40", "@").replace("%3A", ":")
        ) as proxy,
    ):
        url = proxy.url.replace("joe:p@ss:word@", "joe:p%40ss%3Aword@")
        replies = await send_some(up.url, 1, proxies=[{"https": url}])
    assert replies[0].status == 200
    assert proxy.seen[0].startswith("CONNECT 127.0.0.1:")
    assert "proxy-authorization" not in {name.lower() for name in up.seen[0][1]}


async def test_a_proxy_may_itself_be_reached_by_tls():
    with (
        scripted_upstream(json_answer()) as up,
        running_proxy(tls=serve_as()) as good,
        running_proxy(tls=serve_as(days_left=-1)) as expired,
    ):
        memory = OwnMemory()
        replies = await send_some(up.url, 2, proxies=[good.url, expired.url], memory=memory)
    assert {reply.status for reply in replies} == {200}
    assert [rest["reason"] for rest in memory.rests.values()] == [
        "TLS failed: certificate has expired"
    ]


async def test_each_scheme_has_its_own_proxies():
    with scripted_upstream(json_answer()) as up, running_proxy() as proxy:
        replies = await send_some(up.url, 2, proxies=[{"https": "http://127.0.0.1:9"}])
        assert (replies[0].status, proxy.seen) == (200, [])
        await send_some(up.url, 1, proxies=[{"http": proxy.url, "https": "http://127.0.0.1:9"}])
    assert len(proxy.seen) == 1


async def test_a_dead_proxy_is_set_aside_and_costs_no_row_its_attempt():
    memory = OwnMemory()
    with scripted_upstream(json_answer()) as up, running_proxy() as good, dead_proxy() as dead:
        replies = await send_some(up.url, 6, proxies=[dead, good.url], memory=memory)
    assert {reply.status for reply in replies} == {200}
    (label,) = memory.rests
    assert label.startswith("proxies[0] http://127.0.0.1:")
    assert memory.rests[label]["failures"] == 1  # it was tried once
    assert "hush" not in json.dumps(memory.rests)


async def test_a_proxy_that_wants_another_password_is_set_aside():
    memory = OwnMemory()
    with (
        scripted_upstream(json_answer()) as plain,
        scripted_upstream(json_answer(), tls=serve_as()) as tls,
        running_proxy(credentials="joe:right-password") as strict,
        running_proxy() as good,
    ):
        wrong = strict.url.replace("right-password", "wrong-password")
        for up in (plain, tls):
            memory.rests = {}
            replies = await send_some(up.url, 3, proxies=[wrong, good.url], memory=memory)
            assert {reply.status for reply in replies} == {200}
            assert [rest["reason"][-3:] for rest in memory.rests.values()] == ["407"]
    assert "password" not in json.dumps(memory.rests)


async def test_a_407_from_the_target_itself_is_its_answer():
    memory = OwnMemory()
    with (
        scripted_upstream(json_answer(status=407), tls=serve_as()) as up,
        running_proxy() as one,
        running_proxy() as two,
    ):
        (reply,) = await send_some(up.url, 1, proxies=[one.url, two.url], memory=memory)
        assert (reply.status, reply.failure, len(up.seen)) == (407, "", 1)
    assert not memory.rests


async def test_a_proxy_that_refuses_a_target_is_blamed_only_when_another_gets_through():
    memory = OwnMemory()
    with scripted_upstream(json_answer(), tls=serve_as()) as up:
        with running_proxy(refuses_with=502) as bad, running_proxy(refuses_with=503) as worse:
            (reply,) = await send_some(up.url, 1, proxies=[bad.url, worse.url], memory=memory)
            assert reply.failure == "proxy"
            assert "answers CONNECT with 50" in reply.reason
            assert memory.rests == {}
        with running_proxy(refuses_with=502) as bad, running_proxy() as good:
            replies = await send_some(up.url, 2, proxies=[bad.url, good.url], memory=memory)
    assert {reply.status for reply in replies} == {200}
    assert [label[:10] for label in memory.rests] == ["proxies[0]"]


async def test_a_mute_proxy_is_left_for_another_within_the_time_of_the_send():
    with (
        scripted_upstream(json_answer(), tls=serve_as()) as up,
        running_proxy(is_mute=True) as mute,
        running_proxy() as good,
    ):
        replies = await send_some(up.url, 2, proxies=[mute.url, good.url], timeout_seconds=6)
    assert {reply.status for reply in replies} == {200}
    assert len(mute.seen) == 1


async def test_without_a_proxy_that_works_the_reason_names_them_and_no_password():
    with scripted_upstream(json_answer()) as up, dead_proxy() as one, dead_proxy() as two:
        (reply,) = await send_some(up.url, 1, proxies=[one, two])
    assert (reply.failure, up.seen) == ("proxy", [])
    for url in (one, two):
        assert url.rpartition("@")[2] in reply.reason
    assert "hush" not in reply.reason


async def test_a_private_proxy_is_refused_like_any_address():
    with scripted_upstream(json_answer()) as up, running_proxy() as proxy:
        guard = AddressGuard(allowed=(up.url.removeprefix("http://"),))
        (reply,) = await send_some(up.url, 1, guard=guard, proxies=[proxy.url])
    assert (reply.failure, proxy.seen) == ("refused_address", [])


async def test_the_certificate_behind_a_proxy_is_the_targets_affair():
    memory = OwnMemory()
    with (
        scripted_upstream(json_answer(), tls=serve_as(days_left=-1)) as up,
        running_proxy() as proxy,
    ):
        (reply,) = await send_some(up.url, 1, proxies=[proxy.url], memory=memory)
    assert (reply.failure, reply.reason) == ("tls", "TLS failed: certificate has expired")
    assert memory.rests == {}


async def test_a_redirect_is_followed_through_a_proxy_too():
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/items/0":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        return web.json_response([{"id": 1}])

    with scripted_upstream(answer) as up, running_proxy() as proxy:
        (reply,) = await send_some(up.url, 1, proxies=[proxy.url])
    assert reply.status == 200
    assert len(proxy.seen) == 2


# ---- a run


@pytest.mark.django_db(transaction=True)
def test_a_run_goes_on_with_the_proxy_that_works_and_says_which_was_set_aside():
    with scripted_upstream(always_good) as up, running_proxy() as good, dead_proxy() as dead:
        request = {"proxies": [dead, good.url]}
        run = drive(start(make_source(up.url, stop=30, request=request)))
    assert run.state == RunState.COMPLETE
    assert set(Request.objects.values_list("attempts", flat=True)) == {1}
    told = [text for text in RunEvent.objects.values_list("message", flat=True) if "aside" in text]
    assert len(told) == 1
    assert told[0].startswith("proxies[0] http://127.0.0.1:")
    assert "hush" not in str(list(RunEvent.objects.values())) + str(run.signs)


@pytest.mark.django_db(transaction=True)
def test_with_all_proxies_dead_every_row_fails_by_their_name():
    with scripted_upstream(always_good) as up, dead_proxy() as dead:
        source = make_source(
            up.url,
            stop=100,
            request={"proxies": [dead]},
            block={"patience_5xx": 10},
            retry={"attempts": 1, "sweeps": 0, "base_seconds": 0.01},
        )
        run = drive(start(source))
    assert (run.state, up.seen) == (RunState.INCOMPLETE, [])
    rows = list(Request.objects.values_list("outcome", "error", "evidence"))
    assert {(outcome, error) for outcome, error, _ in rows} == {(Outcome.FAILED, "proxy")}
    assert all("proxies[0] http://127.0.0.1:" in str(row[2]) for row in rows)
    told = str(rows) + str(list(ErrorLog.objects.values()))
    assert "hush" not in told
    assert "joe" not in told


# ---- the rotation by itself


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_rest_grows_with_each_failed_trial_and_ends_with_a_success():
    clock, memory = Clock(), OwnMemory()
    rotation = Rotation(memory, clock=clock)
    lasted = []
    for _ in range(8):
        since = clock.now
        clock.now += 1
        rotation.note_failure("a", "refuses", since=since)
        lasted.append(memory.rests["a"]["until"] - clock.now)
        assert rotation.choose(["a", "b"], turn=0) == "b"
        clock.now = memory.rests["a"]["until"] + 1
        assert rotation.choose(["a", "b"], turn=0) == "a"
    assert lasted == [5, 10, 20, 40, 80, 160, 300, 300]
    rotation.note_success("a")
    assert memory.rests["a"]["failures"] == 0


def test_many_sends_that_fail_at_once_are_one_failure():
    clock, memory = Clock(), OwnMemory()
    rotation = Rotation(memory, clock=clock)
    for _ in range(50):
        clock.now += 0.01
        rotation.note_failure("a", "refuses", since=1_000.0)
    assert memory.rests["a"]["failures"] == 1


def test_where_all_rest_the_next_to_be_back_is_tried():
    clock = Clock()
    rotation = Rotation(OwnMemory(), clock=clock)
    for label in ("a", "b", "c"):
        rotation.note_failure(label, "refuses", since=clock.now - 1)
        clock.now += 1
    assert rotation.choose(["c", "b", "a"], turn=0) == "a"
    assert rotation.choose(["c", "b", "a"], turn=0, avoid={"a"}) is None


def test_what_fails_with_all_of_them_is_nobodys_fault():
    clock, memory = Clock(), OwnMemory()
    rotation = Rotation(memory, clock=clock)
    for _ in range(30):
        for label in ("a", "b"):
            clock.now += 1
            rotation.note_doubt(label, "429", since=clock.now)
    assert memory.rests == {}


def test_one_that_fails_again_and_again_while_another_works_is_set_aside():
    clock, memory = Clock(), OwnMemory()
    rotation = Rotation(memory, clock=clock)
    for _ in range(4):
        clock.now += 1
        rotation.note_doubt("a", "429", since=clock.now)
        clock.now += 1
        rotation.note_success("b")
    assert memory.rests == {}
    rotation.note_doubt("a", "429", since=clock.now)
    assert list(memory.rests) == ["a"]


async def test_a_proxy_that_brings_no_answers_is_set_aside_while_another_does(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(rotation, "ENOUGH_DOUBTS", 2)  # each costs the time of a send
    memory = OwnMemory()
    with (
        scripted_upstream(json_answer()) as up,
        running_proxy(is_mute=True) as mute,
        running_proxy() as good,
    ):
        replies = await send_some(
            up.url, 8, proxies=[mute.url, good.url], memory=memory, timeout_seconds=3
        )
    assert [label[:10] for label in memory.rests] == ["proxies[0]"]
    assert [reply.failure for reply in replies].count("timeout") in {2, 3}
    assert replies[-1].status == replies[-2].status == 200


async def test_a_cancelled_send_leaves_nothing_behind():
    with scripted_upstream(json_answer()) as up, running_proxy(is_mute=True) as mute:
        task = asyncio.create_task(send_some(up.url, 1, proxies=[mute.url]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

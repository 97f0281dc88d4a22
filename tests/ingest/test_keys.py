"""Several API keys of one source: which of them is in trouble, and that none is ever told."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from ingest import services
from ingest.fetch.answers import Verdict
from ingest.fetch.keys import KeyRing
from ingest.fetch.rotation import OwnMemory, Rotation
from ingest.fetch.signs import Signs
from ingest.models import ErrorLog, Record, Request, Run, RunEvent
from ingest.outcomes import Outcome, RunState
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.upstream import scripted_upstream

SECRETS = ["key-text-alpha", "key-text-bravo", "key-text-charlie"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_key_that_alone_is_refused_is_named_by_its_place_and_rests(status: int):
    async def answer(request: web.Request) -> web.Response:
        if request.headers["X-Api-Key"] == SECRETS[1]:
            return web.Response(status=status, text=f"no: {SECRETS[1]}")
        return good(request)

    keys = [{"in": "header", "name": "X-Api-Key", "secret": secret} for secret in SECRETS]
    with scripted_upstream(answer) as up:
        source = make_source(
            up.url,
            stop=90,
            request={"api_key": keys},
            limits={"per_second": None, "concurrency": 3},
            retry={"attempts": 1, "sweeps": 0},
        )
        run = drive(start(source))
    assert run.state == RunState.INCOMPLETE
    refused = Request.objects.exclude(outcome=Outcome.DELIVERED)
    # 30 rows are its share; it rests after five refusals in a row, give or take what is under way.
    assert 5 <= refused.count() <= 10
    assert {row.evidence["api_key"] for row in refused if row.evidence} == {1}
    told = [text for text in RunEvent.objects.values_list("message", flat=True) if "aside" in text]
    assert told == [f"api_key[1] is set aside for a while: answered with {status}."]
    everything = [
        list(table.objects.values()) for table in (Request, ErrorLog, Run, RunEvent, Record)
    ]
    assert not any(secret in str(everything) for secret in SECRETS)


def test_one_key_is_never_set_aside():
    memory = OwnMemory()
    ring = KeyRing(1, Rotation(memory))
    for turn in range(20):
        assert ring.choose(turn) == turn
        ring.note(turn, Verdict(Outcome.DENIED, evidence={}), 401, since=0.0)
    assert memory.rests == {}


def test_refusals_of_all_keys_are_not_the_keys_fault():
    memory = OwnMemory()
    ring = KeyRing(2, Rotation(memory))
    evidence: dict[str, object] = {}
    for turn in range(40):
        place = ring.choose(turn)
        assert place == turn % 2
        ring.note(place, Verdict(Outcome.REFUSED, evidence=evidence), 429, since=float(turn))
    assert memory.rests == {}
    assert json.dumps(evidence) == '{"api_key": 1}'


@pytest.mark.django_db(transaction=True)
def test_another_key_in_its_place_does_not_rest_for_the_old_one():
    keys = [{"in": "header", "name": "X-Api-Key", "secret": secret} for secret in SECRETS]
    source = make_source("http://127.0.0.1:9", request={"api_key": keys})
    run = start(source)
    rest = {"failures": 3, "at": 1.0, "until": 9e12, "reason": "answered with 401"}
    told = {"rests": {"api_key[1]": rest}, "denied": {"broken_at": 0.5, "times": [1.0, 2.0]}}
    Run.objects.update(signs={**told, "rate": 3.0, "rate_at": 1.0})
    services.update_source(source=source, patch={"name": "Another"})
    assert Run.objects.get(pk=run.pk).signs["rests"]
    keys[1]["secret"] = "key-text-delta"
    services.update_source(source=source, patch={"request": {"api_key": keys}})
    assert Signs.of(Run.objects.get(pk=run.pk).signs) == Signs(rate=3.0, rate_at=1.0)

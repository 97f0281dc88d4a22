"""When and how much of what came in is written."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import web
from django.utils import timezone

from ingest import ledger
from ingest.fetch import loop
from ingest.fetch.answers import Answer, Verdict
from ingest.fetch.loop import next_batch
from ingest.models import Record, Request
from ingest.outcomes import Outcome, RunState
from tests.ingest.test_pipeline import drive, make_source, start
from tests.ingest.upstream import scripted_upstream


def answer(weight_bytes: int) -> Answer:
    verdict = Verdict(Outcome.DELIVERED)
    return Answer(1, 1, 0, "1", "", 1, 1, 0, verdict, 200, 1.0, timezone.now(), None, weight_bytes)


def test_a_batch_is_cut_by_its_weight():
    assert len(next_batch([answer(loop.FLUSH_BYTES // 4)] * 9)) == 4
    assert len(next_batch([answer(loop.FLUSH_BYTES * 3)] * 2)) == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_more_is_sent_while_much_waits_to_be_written(monkeypatch: pytest.MonkeyPatch):
    """However slow the database is: memory must not grow with what the upstream sends."""
    body_bytes, concurrency, most = 20_000, 5, 200_000
    monkeypatch.setattr(loop, "FLUSH_BYTES", 50_000)
    monkeypatch.setattr(loop, "MAX_WAITING_BYTES", most)
    flush, ahead = ledger.flush_answers, []

    def flush_slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        answered = Request.objects.filter(attempts__gt=0).count()
        ahead.append(len(upstream.seen) - answered)
        return flush(*args, **kwargs)

    async def large(request: web.Request) -> web.Response:
        number = int(request.path.rpartition("/")[2])
        return web.json_response({"id": number, "text": "x" * body_bytes})

    monkeypatch.setattr(ledger, "flush_answers", flush_slowly)
    limits = {"concurrency": concurrency}
    with scripted_upstream(large) as upstream:
        run = drive(start(make_source(upstream.url, stop=120, limits=limits)))
    assert run.state == RunState.COMPLETE
    assert Record.objects.count() == 120
    # One for each sender that had left before, or was under way, when the limit was reached.
    assert max(ahead) <= most / body_bytes + 2 * concurrency

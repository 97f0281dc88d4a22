"""Which answers say that the source is shut, and which only hold a word that could."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from django.utils import timezone

from ingest.configuration import parse_configuration
from ingest.fetch.answers import Reply, Verdict
from ingest.fetch.classify import Classifier
from ingest.outcomes import Outcome, RunState
from ingest.secrets import Redactor
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.upstream import scripted_upstream

BAN = b'{"error": "Your IP has been permanently banned", "status": 403}'
SCHEMA = {"required": ["name"], "properties": {"name": {"type": "string", "maxLength": 10}}}


def classify(body: bytes, status: int = 200, retry_after: str | None = None, **records: Any) -> Any:
    configuration = parse_configuration(
        {
            "slug": "x",
            "request": {"url": "http://h/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 1},
            "records": records,
        }
    )
    if hours := {"in an hour": 1, "an hour ago": -1}.get(retry_after or ""):
        retry_after = format_datetime(timezone.now() + timedelta(hours=hours))
    reply = Reply(status=status, body=body, retry_after=retry_after)
    verdict: Verdict = Classifier.of(configuration, redact=Redactor([])).classify(reply)
    return verdict.outcome, verdict.block_marker


@pytest.mark.parametrize("retry_after", ["1", "0", "3600", "in an hour"])
def test_a_refusal_that_names_a_delay_is_no_block(retry_after: str):
    body = b'{"error": "temporarily blocked for 1 second"}'
    assert classify(body, 429, retry_after) == (Outcome.REFUSED, "")


@pytest.mark.parametrize("retry_after", [None, "", "soon", "-1", "an hour ago"])
def test_a_refusal_that_names_none_is_a_block(retry_after: str | None):
    assert classify(b"You are blocked.", 429, retry_after) == (Outcome.REFUSED, "blocked")


@pytest.mark.parametrize("status", [401, 403])
def test_a_delay_takes_nothing_from_a_denial(status: int):
    assert classify(BAN, status, "60") == (Outcome.DENIED, "banned")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"blocked": []}', "blocked"),
        (b'{"blocked" : null}', "blocked"),
        (b'{"page": {"denied": 0, "a\\"b": "x\\\\"}, "banned": []}', "banned"),
    ],
)
def test_the_names_in_an_empty_answer_are_no_block(body: bytes, path: str):
    assert classify(body, path=path) == (Outcome.EMPTY, "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [], "error": "Your IP has been permanently banned"}',
        b'{"error": "You are \\"banned\\": go", "data": null}',
        b'{"error": ["a", "banned"], "data": []}',
    ],
)
def test_what_an_empty_answer_says_may_be_a_block(body: bytes):
    assert classify(body, path="data") == (Outcome.EMPTY, "banned")


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": 1, "name": "The river is blocked by ice"}',
        b'[{"id": 1, "name": "The river is blocked by ice"}, {"id": 2}]',
        b"[" + b'{"id": 1, "note": "blocked"},' * 99 + b'{"id": 2}]',
    ],
)
def test_records_that_only_break_the_schema_come_from_a_source_that_is_open(body: bytes):
    assert classify(body, schema=SCHEMA) == (Outcome.MALFORMED, "")


@pytest.mark.parametrize("schema", [None, SCHEMA])
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (BAN, None),
        (BAN, "data"),
        (b"[" + BAN + b"]", None),
        (b'[{"id": 1, "name": 7}, ' + BAN + b"]", None),
        (b"[" + b'{"id": 1, "name": 7}, ' * 99 + BAN + b"]", None),
        (b"<html>Your IP has been banned</html>", None),
        (b'["banned"]', None),
    ],
)
def test_an_error_in_the_place_of_a_record_is_a_block(
    body: bytes, path: str | None, schema: dict[str, Any] | None
):
    if schema is None and b'"name": 7' in body:
        schema = {"properties": {"name": {"type": "string"}}}
    records: dict[str, Any] = {"path": path} | ({"schema": schema} if schema else {})
    assert classify(body, **records) == (Outcome.MALFORMED, "banned")


@pytest.mark.django_db(transaction=True)
def test_a_run_waits_out_a_block_of_a_second():
    seen = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 3:
            text = "temporarily blocked for 1 second"
            return web.json_response({"error": text}, status=429, headers={"Retry-After": "1"})
        return good(request)

    with scripted_upstream(answer) as up:
        run = drive(start(make_source(up.url, stop=10)))
    assert (run.state, run.delivered_count) == (RunState.COMPLETE, 10)

from __future__ import annotations

import asyncio
import base64
import html
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponseError, RequestInfo, web
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ingest import services
from ingest.configuration import parse_configuration
from ingest.errors import ConfigurationInvalid
from ingest.fetch.answers import Reply, Verdict
from ingest.fetch.classify import Classifier
from ingest.fetch.transport import name_failure
from ingest.models import Delivery, ErrorLog, Record, Request, Run, RunEvent, Source
from ingest.outcomes import Outcome, RunState
from ingest.plans import address_of, prepare_request
from ingest.secrets import KEPT_CHARACTERS, Redactor, attach_secrets, detach_secrets, seal, unseal
from tests.ingest.factories import UserFactory
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.test_transport import configure, send
from tests.ingest.upstream import raw_upstream, scripted_upstream

WITH_SECRETS = {
    "slug": "vault",
    "request": {
        "url": "https://api.example.org/items/{id}",
        "headers": {"Authorization": "Bearer top-secret-1", "X-Trace": "plain"},
        "params": {"access_token": "top-secret-2", "lang": "en"},
        "proxies": [{"http": "http://joe:top-secret-3@proxy.example.org:3128"}],
        "api_key": [
            {"in": "header", "name": "X-Api-Key", "secret": "top-secret-4"},
            {"in": "query", "name": "key", "secret": "top-secret-5"},
        ],
    },
    "plan": {"type": "values", "name": "id", "values": ["a b/c", "ü"]},
}


def test_no_secret_stays_in_the_public_part_and_all_come_back():
    data = parse_configuration(WITH_SECRETS).as_json()
    public, secrets = detach_secrets(data)
    assert "top-secret" not in json.dumps(public)
    assert len(secrets) == 5
    assert public["request"]["headers"] == {"Authorization": {"set": True}, "X-Trace": "plain"}
    assert attach_secrets(public, secrets) == data


@pytest.mark.django_db
def test_a_patch_leaves_secrets_alone_unless_they_are_sent():
    source = services.create_source(owner=UserFactory(), data=WITH_SECRETS)
    services.update_source(source=source, patch={"name": "Vault", "limits": {"concurrency": 7}})
    stored = Source.objects.get(slug="vault")
    assert stored.name == "Vault"
    assert b"top-secret" not in bytes(stored.sealed_secrets)
    assert len(unseal(stored.sealed_secrets)) == 5
    services.update_source(
        source=source, patch={"request": {"headers": {"Authorization": "Bearer other-one"}}}
    )
    stored.refresh_from_db()
    assert unseal(stored.sealed_secrets)['["request", "headers", "Authorization"]'] == (
        "Bearer other-one"
    )


@pytest.mark.django_db
def test_a_mark_for_a_secret_that_was_never_given_is_refused():
    source = services.create_source(
        owner=UserFactory(), data={**WITH_SECRETS, "request": {"url": "https://e.org/{id}"}}
    )
    with pytest.raises(ConfigurationInvalid) as caught:
        services.update_source(
            source=source, patch={"request": {"headers": {"Authorization": {"set": True}}}}
        )
    assert list(caught.value.fields) == ["request.headers.Authorization"]


def test_secrets_sealed_with_an_older_key_open_after_a_rotation(settings):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = (old,)
    sealed = seal({"a": "b"})
    settings.ENCRYPTION_KEYS = (new, old)
    assert unseal(sealed) == {"a": "b"}
    settings.ENCRYPTION_KEYS = (new,)
    with pytest.raises(ImproperlyConfigured, match="PORTAL_ENCRYPTION_KEYS"):
        unseal(sealed)


def test_a_redactor_hides_secrets_in_every_spelling():
    redact = Redactor(["Bearer top/secret 1", "http://joe:pa55word@proxy:1"])
    text = redact("sent top/secret 1: Bearer top/secret 1, Bearer%20top%2Fsecret%201, pa55word")
    assert "top" not in text.replace("top/secret 1:", "")
    assert "pa55word" not in text


def test_the_address_that_people_see_has_no_secret():
    configuration = parse_configuration(WITH_SECRETS)
    shown = address_of(configuration, "a b/c")
    assert shown == "https://api.example.org/items/a%20b%2Fc?access_token=***&lang=en"
    sent = prepare_request(configuration, "ü", turn=1)
    assert sent.url == (
        "https://api.example.org/items/%C3%BC?access_token=top-secret-2&lang=en&key=top-secret-5"
    )
    assert "X-Api-Key" not in sent.headers
    assert prepare_request(configuration, "ü", turn=0).headers["X-Api-Key"] == "top-secret-4"


# ---- in every form, everywhere


SECRET = "s3cr3t/key+with=signs"


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        json.dumps(SECRET),
        json.dumps(SECRET).replace("/", "\\/"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"me:{SECRET}:x".encode()).decode(),
        base64.urlsafe_b64encode(f"{SECRET}:".encode()).decode(),
    ],
)
def test_no_form_of_a_secret_is_shown(shown: str):
    hidden = Redactor([SECRET])(f"before {shown} after")
    assert "***" in hidden
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert shown not in hidden
    assert SECRET[:8] not in hidden


ODD_SECRET = "s3cr3t&a<b>c+d'e\"f/g=0123456789"


def escape_in_json(text: str, characters: str) -> str:
    for each in characters:
        text = text.replace(each, f"\\u{ord(each):04X}")
    return text


@pytest.mark.parametrize(
    "shown",
    [
        escape_in_json(SECRET, "+"),
        escape_in_json(SECRET, "+").lower(),
        escape_in_json(SECRET, "+="),
        escape_in_json(SECRET, "=").replace("/", "\\/"),
        escape_in_json(SECRET, "+/="),
        escape_in_json(ODD_SECRET, "+&<>'\""),  # .NET
        escape_in_json(ODD_SECRET.replace('"', '\\"'), "&<>").lower(),  # Go
        escape_in_json(ODD_SECRET.replace('"', '\\"'), "&<>='").lower(),  # Gson
        html.escape(ODD_SECRET, quote=False),
        html.escape(ODD_SECRET),
        html.escape(ODD_SECRET).replace("&#x27;", "&#39;"),
        html.escape(ODD_SECRET).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        html.escape(ODD_SECRET).replace("+", "&#x2B;"),
        ODD_SECRET.lower(),
    ],
)
def test_no_secret_is_shown_as_writers_of_json_and_html_escape_it(shown: str):
    assert Redactor([SECRET, ODD_SECRET])(f"before {shown} after") == "before *** after"


def test_what_html_escapes_in_a_record_is_replaced_too():
    body = json.dumps([{"id": 1, "name": f"<b>{html.escape(ODD_SECRET)}</b>"}])
    for answer in (body, escape_in_json(body, "&<>")):
        (record,) = deliver(answer.encode(), [ODD_SECRET]).records
        assert record.title == "<b>***</b>"


def test_a_search_of_each_body_is_only_for_what_may_stand_there():
    assert len(Redactor(["no-odd-characters-at-all"])._needles) == 4
    assert len(Redactor([SECRET])._needles) <= 12


@pytest.mark.parametrize("size", range(1, len(SECRET)))
def test_half_a_secret_at_the_end_of_what_was_cut_is_not_shown(size: int):
    redact = Redactor([SECRET])
    shown = redact.shorten("begin " + SECRET[:size], 300, is_whole=False)
    assert shown == ("begin ***" if size > 3 else f"begin {SECRET[:size]}")
    assert redact.shorten("begin " + SECRET[:size], 300, is_whole=True).endswith(SECRET[:size])
    # Another secret whose end is the beginning of this one.
    both = Redactor([SECRET, "another-" + SECRET[:size]])
    shown = both.shorten("begin another-" + SECRET[:size], 300, is_whole=False)
    assert shown == "begin ***"


def test_the_credentials_of_a_proxy_are_hidden_in_its_header_too():
    redact = Redactor(["http://joe:pa%2Fs5word@proxy.example.org:3128"])
    header = "Basic " + base64.b64encode(b"joe:pa/s5word").decode()
    for text in (header, "pa/s5word", "pa%2Fs5word", "http://joe:pa%2Fs5word@proxy.example.org"):
        assert "***" in redact(text), text
        assert "s5word" not in redact(text)


SMALL: dict[str, Any] = {
    "slug": "x",
    "request": {"url": "http://h/{id}"},
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 1},
}


def deliver(body: bytes, secrets: list[str], charset: str | None = None) -> Verdict:
    configuration = parse_configuration({**SMALL, "records": {"title": "name"}})
    reply = Reply(status=200, body=body, charset=charset)
    return Classifier.of(configuration, redact=Redactor(secrets)).classify(reply)


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (json.dumps([{"id": 1, "name": SECRET, "deep": [{SECRET: [SECRET]}]}]).encode(), None),
        (json.dumps([{"id": 1, "name": quote(SECRET, safe="")}]).encode(), None),
        (json.dumps([{"id": 1, "name": SECRET}]).replace("/", "\\/").encode(), None),
        (json.dumps([{"id": 1, "name": SECRET}]).replace("+", "\\u002B").encode(), None),
        (json.dumps([{"id": 1, "name": SECRET}]).encode("utf-16"), None),
        (json.dumps([{"id": 1, "name": SECRET}]).encode("utf-16-le"), "utf-16le"),
        (json.dumps([{"id": 1, "name": SECRET}]).encode("cp037"), "cp037"),
        (json.dumps([{"id": 1, "name": base64.b64encode(b"me:" + SECRET.encode()).decode()}])
         .encode(), None),
    ],
)  # fmt: skip
def test_a_secret_in_a_delivered_record_is_replaced_and_told(body: bytes, charset: str | None):
    verdict = deliver(body, [SECRET], charset)
    assert verdict.outcome == Outcome.DELIVERED
    (record,) = verdict.records
    stored = f"{record.data} {record.title} {record.body} {record.key}"
    assert "***" in stored
    assert not re.search("s3cr3t|czNjcjN0|MzY3Iz", stored)
    assert verdict.evidence == {
        "warning": "the upstream sends back a secret of this source; it was replaced by ***",
        "scrubbed_records": 1,
    }


def test_a_record_without_a_secret_stays_as_it_came():
    verdict = deliver(b'[{"id": 1, "name": "caf\\u0041", "n": null}]', [SECRET, "demo"])
    assert (verdict.outcome, verdict.evidence) == (Outcome.DELIVERED, None)
    assert json.loads(verdict.records[0].data) == {"id": 1, "name": "cafA", "n": None}


def test_a_short_secret_does_not_bend_records_that_hold_the_word():
    verdict = deliver(b'[{"id": 1, "name": "a demo of demos"}]', ["demo"])
    assert verdict.records[0].title == "a demo of demos"
    assert Redactor(["demo"])("key demo is wrong") == "key *** is wrong"


@pytest.mark.django_db(transaction=True)
def test_a_secret_that_the_upstream_echoes_is_nowhere_in_the_database():
    async def answer(request: web.Request) -> web.Response:
        said = {"id": request.path[1:], "echo": dict(request.headers), "url": str(request.url)}
        if request.path == "/2":
            return web.json_response({"error": said}, status=500, reason=SECRET)
        if request.path == "/3":
            return web.Response(status=302, headers={"Location": f"http://{SECRET}.invalid/"})
        if request.path == "/4":
            return web.Response(text=f"<html>{said}</html>", content_type="text/html")
        return web.json_response([said])

    with scripted_upstream(answer) as up:
        request = {
            "headers": {"Authorization": "Basic " + base64.b64encode(SECRET.encode()).decode()},
            "params": {"access_token": SECRET},
            "api_key": {"in": "header", "name": "X-Api-Key", "secret": SECRET},
        }
        retry = {"attempts": 1, "sweeps": 0}
        run = drive(start(make_source(up.url, stop=6, request=request, retry=retry)))
    assert run.delivered_count == 3
    tables = (Request, Record, ErrorLog, Run, RunEvent, Delivery)
    told = str([list(table.objects.values()) for table in tables])
    assert "***" in told
    for form in (SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()):
        assert form not in told


@pytest.mark.django_db(transaction=True)
def test_the_encryption_key_may_change_while_a_run_is_under_way(settings):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = (old,)
    seen = set()

    async def answer(request: web.Request) -> web.Response:
        seen.add(request.headers["X-Api-Key"])
        return good(request)

    with scripted_upstream(answer) as up:
        key = {"in": "header", "name": "X-Api-Key", "secret": SECRET}
        run = start(make_source(up.url, stop=5, request={"api_key": key}))
        settings.ENCRYPTION_KEYS = (new, old)
        assert drive(run).state == RunState.COMPLETE
    assert seen == {SECRET}


def test_a_secret_around_a_placeholder_is_as_secret_as_any_other():
    request = {
        "url": "https://api.example.org/items/{id}",
        "headers": {"Authorization": "Bearer hidden-part-{id}"},
        "params": {"token": "secret-begin-{id}", "page_token": "{id}"},
    }
    configuration = parse_configuration({**WITH_SECRETS, "request": request})
    shown = address_of(configuration, "7")
    assert "secret-begin" not in shown
    assert "page_token=7" in shown
    redact = Redactor(detach_secrets(configuration.as_json())[1].values())
    assert "hidden-part" not in redact("you sent Bearer hidden-part-7")
    assert "hidden-part" not in redact("key hidden-part-7 is unknown")
    assert redact.may_be_in(b'{"echo": "secret-begin-7"}', None)


# ---- redacted before it is cut

LONG_SECRET = "Ab3+" + "cD4/eF5=gH6" * 20


def assert_no_part(secret: str, told: str, *, size: int = 8) -> None:
    assert "***" in told
    for at in range(len(secret) - size + 1):
        assert secret[at : at + size] not in told, told


@pytest.mark.parametrize(
    "records",
    [
        {"schema": {"required": ["zzz"]}},
        {"schema": {"properties": {"auth": {"type": "integer"}}}},
        {"schema": {"properties": {"auth": {"properties": {"x": False}}}}},
        {"key": "abs(auth)"},
    ],
    ids=["required", "type", "a name", "jmespath"],
)
def test_no_fault_of_a_record_shows_a_part_of_a_secret(records: dict[str, Any]):
    body = [{"id": 1, "auth": "p" * pad + LONG_SECRET} for pad in (0, 100, 190, 9_900)]
    configuration = parse_configuration({**SMALL, "records": records})
    classifier = Classifier.of(configuration, redact=Redactor([LONG_SECRET]))
    verdict = classifier.classify(Reply(status=200, body=json.dumps(body).encode()))
    if verdict.outcome == Outcome.MALFORMED:
        assert_no_part(LONG_SECRET, json.dumps(verdict.evidence))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=200, body=b"[]", charset="p" * 30 + LONG_SECRET),
        Reply(status=400, body=(LONG_SECRET * 30).encode()),
        Reply(status=400, body=(LONG_SECRET * 2)[:-1].encode(), is_too_large=True),
        Reply(status=200, body=b"[", failure="broken_off", reason="p" * 250 + LONG_SECRET),
        Reply(status=200, failure="protocol", reason=(LONG_SECRET * 99)[:KEPT_CHARACTERS]),
    ],
    ids=["charset", "an echo", "too large", "broken off", "a protocol error"],
)
def test_nothing_that_is_cut_shows_a_part_of_a_secret(reply: Reply):
    classifier = Classifier.of(parse_configuration(SMALL), redact=Redactor([LONG_SECRET]))
    evidence = classifier.classify(reply).evidence
    assert evidence is not None
    assert_no_part(LONG_SECRET, json.dumps(evidence))
    assert len(evidence["reason"]) <= 300


def test_a_name_in_a_record_is_not_cut_into_half_a_secret():
    schema = {"additionalProperties": {"additionalProperties": {"type": "integer"}}}
    configuration = parse_configuration({**SMALL, "records": {"schema": schema}})
    classifier = Classifier.of(configuration, redact=Redactor([LONG_SECRET]))
    body = json.dumps([{"p" * 60: {LONG_SECRET: "x"}}]).encode()
    reason = (classifier.classify(Reply(status=200, body=body)).evidence or {})["reason"]
    assert reason.startswith("record 0, a place with a long name: ")
    assert LONG_SECRET[:8] not in reason


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX Y: " + b"p" * 150 + b"SECRET\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"p" * 150 + b"SECRET\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: " + b"p" * 30
        + b"SECRET\r\n\r\n[]",
        b"HTTP/1.1 400 B\r\nContent-Length: 2\r\nContent-Type: " + b"p" * 150 + b"SECRET\r\n\r\n[]",
    ],
    ids=["a header", "a chunk", "a coding", "a type"],
)  # fmt: skip
async def test_no_head_that_is_quoted_shows_a_part_of_a_secret(answer: bytes):
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer.replace(b"SECRET", LONG_SECRET.encode()))
        await writer.drain()

    with raw_upstream(play) as url:
        configuration = configure(url)
        reply, _ = await send(configuration)
    classifier = Classifier.of(configuration, redact=Redactor([LONG_SECRET]))
    assert_no_part(LONG_SECRET, json.dumps(classifier.classify(reply).evidence))


async def test_a_line_that_the_parser_cuts_is_not_quoted():
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + LONG_SECRET.encode() * 1_000 + b"\r\n\r\n")
        await writer.drain()

    with raw_upstream(play) as url:
        reply, _ = await send(configure(url))
    assert reply.reason == "not HTTP as it should be: Got more than 65536 bytes"


def test_what_a_proxy_says_to_connect_is_not_quoted():
    url = URL("https://example.org")
    sent = RequestInfo(url, "CONNECT", CIMultiDictProxy(CIMultiDict()), url)
    error = ClientResponseError(sent, (), message="Bad status line: b'ICY 407 am9lOnB3'")
    assert name_failure(error) == (
        "protocol",
        "not HTTP as it should be: the answer to CONNECT",
    )

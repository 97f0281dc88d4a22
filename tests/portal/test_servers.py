"""Processes as an operator starts them: settings of a server, clear ends, ASGI and WSGI."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from cryptography.fernet import Fernet

from portal.body_limit import limit_body
from portal.config import BASE_DIR
from portal.handler import PooledHandler
from portal.processes import find_free_port


@pytest.fixture
def production(tmp_path):
    return {
        "PATH": os.environ["PATH"],  # noqa: TID251 - handed on to a child
        "PORTAL_DATA_DIR": str(tmp_path / "var"),
        "STATIC_ROOT": str(tmp_path / "static"),
        "PORTAL_ENVIRONMENT": "production",
        "SECRET_KEY": "Zx9-" * 20 + "abcdefgh",
        "PORTAL_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "ALLOWED_HOSTS": "gleaner.example.org",
    }


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_deployment_checks_have_nothing_to_say(production):
    done = run(production, "manage.py", "check", "--deploy", "--fail-level", "WARNING")

    assert done.returncode == 0, done.stderr
    assert "no issues (1 silenced)" in done.stdout


def test_debug_does_not_weaken_a_server(production):
    code = (
        "from portal import settings as s; print(s.SECURE_SSL_REDIRECT, s.SESSION_COOKIE_SECURE,"
        "s.CSRF_COOKIE_SECURE, s.SECURE_HSTS_SECONDS, s.SECURE_HSTS_PRELOAD)"
    )
    done = run(production | {"DEBUG": "1"}, "-c", code)

    assert done.stdout.split() == ["True", "True", "True", "31536000", "True"], done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["manage.py", "check"],
        ["-m", "celery", "-A", "portal", "inspect", "ping"],
        ["-m", "uvicorn", "portal.asgi:application", "--port", "1"],
    ],
    ids=["manage.py", "celery", "uvicorn"],
)
def test_a_wrong_variable_ends_the_start_with_one_line(production, command):
    done = run(production | {"PORTAL_PORT": "eighty"}, *command)

    assert done.returncode != 0
    assert "PORTAL_PORT: 'eighty' is not a whole number, 1 to 65535." in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_database_out_of_reach_ends_the_start_with_a_clear_line(production, command):
    address = "postgresql://someone:hush-hush@127.0.0.1:1/gleaner"
    place = {"DATABASE_URL": address, "PORTAL_PORT": str(find_free_port(21_000))}
    done = run(production | place | {"PORTAL_ENVIRONMENT": "local"}, "manage.py", command)

    assert done.returncode != 0
    assert "DATABASE_URL: the database cannot be used" in done.stderr
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush-hush" not in done.stdout + done.stderr


def test_a_server_sends_people_to_https_and_gives_files_names_that_can_be_cached(production):
    collected = run(production, "manage.py", "collectstatic", "--noinput")
    assert collected.returncode == 0, collected.stderr
    code = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
import django
django.setup()
from django.test import Client
client = Client(headers={"Host": "gleaner.example.org"})
print(client.get("/")["Location"], client.get("/health").status_code)
page = client.get("/", secure=True)
print(page["Strict-Transport-Security"])
print(page.cookies["csrftoken"]["secure"])
print(page.content.decode())
"""
    done = run(production, "-c", code)
    first, hsts, secure, page = done.stdout.split("\n", 3)

    assert first == "https://gleaner.example.org/ 200", done.stderr
    assert hsts == "max-age=31536000; includeSubDomains; preload"
    assert secure == "True"
    assert re.search(r"/static/portal/portal\.[0-9a-f]{12}\.css", page)


def test_no_model_lacks_a_migration(production, tmp_path):
    done = run(production, "manage.py", "makemigrations", "--check", "--dry-run")

    assert done.returncode == 0, done.stdout


async def ask(
    handler: PooledHandler, *, path: str, method: str = "GET", headers=(), chunks=(b"",)
) -> tuple[int, dict[str, Any]]:
    """One request to the ASGI application, its body in chunks."""
    application = limit_body(handler)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    communicator = ApplicationCommunicator(application, scope)
    for number, chunk in enumerate(chunks):
        more = number < len(chunks) - 1
        await communicator.send_input({"type": "http.request", "body": chunk, "more_body": more})
    start = await communicator.receive_output(timeout=10)
    body = b""
    while True:
        message = await communicator.receive_output(timeout=10)
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await communicator.wait(timeout=10)
    return start["status"], json.loads(body)


def ask_now(**request) -> tuple[int, dict[str, Any]]:
    handler = PooledHandler()
    try:
        return asyncio.run(ask(handler, **request))
    finally:
        # Its threads keep their connections, which a test must not leave behind.
        handler.shut_down()


@pytest.mark.django_db(transaction=True)
def test_the_portal_answers_over_asgi():
    assert ask_now(path="/health") == (200, {"status": "ok"})


JSON = ((b"content-type", b"application/json"),)


@pytest.mark.django_db(transaction=True)
def test_a_body_that_announces_too_much_is_refused_unread(settings):
    settings.MAX_BODY_BYTES = 1000
    headers = (*JSON, (b"content-length", b"1001"))

    status, body = ask_now(path="/api/token/", method="POST", headers=headers, chunks=[b"x" * 1001])

    assert (status, body["error"]["code"]) == (413, "body_too_large")


@pytest.mark.django_db(transaction=True)
def test_a_body_that_announces_nothing_is_cut_off_at_the_limit(settings):
    settings.MAX_BODY_BYTES = 1000

    status, body = ask_now(
        path="/api/token/", method="POST", headers=JSON, chunks=[b" " * 600, b" " * 600, b"{}"]
    )

    assert (status, body["error"]["code"]) == (413, "body_too_large")


@pytest.mark.django_db(transaction=True)
def test_a_body_within_the_limit_arrives_whole():
    status, body = ask_now(
        path="/api/token/", method="POST", headers=JSON, chunks=[b'{"email": ', b'"a@b.c"}']
    )

    assert status == 400
    assert set(body["error"]["fields"]) == {"password"}

"""What the server's own errors leave behind."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import DatabaseError, connection

from ingest.errorlog import record_server_error, redact_text
from ingest.models import ErrorLog, Outbox
from tests.ingest.factories import UserFactory


def record(**changes: Any) -> None:
    record_server_error(
        **{
            "error_type": "HTTP Error",
            "status_code": 404,
            "message": "Not Found",
            "path": "/nowhere/",
            "user": None,
            "correlation_id": "abc-1",
            **changes,
        }
    )


@pytest.mark.django_db
def test_one_call_is_one_row_that_says_type_status_and_time() -> None:
    user = UserFactory()
    record(user=user)
    error = ErrorLog.objects.get()
    assert (error.error_type, error.status_code, error.message) == ("HTTP Error", 404, "Not Found")
    assert (error.path, error.user, error.correlation_id) == ("/nowhere/", user, "abc-1")
    assert (error.source, error.run, error.outcome) == (None, None, "")
    assert str(error) == f"HTTP Error - 404 - {error.occurred_at:%Y-%m-%d %H:%M:%S}"


@pytest.mark.django_db
@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_nobody_is_no_user(user: Any) -> None:
    record(user=user)
    assert ErrorLog.objects.get().user is None


@pytest.mark.django_db
def test_an_error_will_be_searchable() -> None:
    record()
    assert Outbox.objects.filter(kind="error", object_id=ErrorLog.objects.get().pk).exists()


@pytest.mark.django_db
def test_what_no_database_takes_is_made_storable() -> None:
    record(
        path="/a\x00b\udcff" + "x" * 5000,
        error_type="E" * 500,
        message="m" * 20_000,
        correlation_id="c" * 100,
        trace="t" * 100_000,
    )
    error = ErrorLog.objects.get()
    assert error.path.startswith("/a�b?xxx")
    assert (len(error.path), len(error.error_type), len(error.message)) == (2000, 200, 10_000)
    assert (len(error.correlation_id), len(error.trace)) == (64, 50_000)


@pytest.mark.django_db
def test_secrets_are_stored_nowhere() -> None:
    record(
        path="/api/sources/?access_token=hush&page=2",
        message="GET https://me:hush@example.org/?api_key=hush failed",
        trace='headers = {"Authorization": "Bearer hush-hush-hush"}',
    )
    error = ErrorLog.objects.get()
    assert "hush" not in f"{error.path} {error.message} {error.trace}"
    assert error.path == "/api/sources/?access_token=***&page=2"


@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_is_logged_and_never_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if "ingest_errorlog" in sql:
            raise DatabaseError("disk full")
        return execute(sql, *args)

    with connection.execute_wrapper(refuse), caplog.at_level(logging.ERROR, "ingest.errorlog"):
        record()
    assert "could not be written: 404 HTTP Error" in caplog.text
    assert "disk full" in caplog.text
    record()
    assert ErrorLog.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/x?q=istanbul&page=2", "/x?q=istanbul&page=2"),
        ("/x?token=a&q=b", "/x?token=***&q=b"),
        ("/x?q=b;Session_Key=a", "/x?q=b;Session_Key=***"),
        ("/x?api%5Fkey=abc#top", "/x?api%5Fkey=***#top"),
        ("/x?PASSWORD=", "/x?PASSWORD=***"),
        ("/x?key=1&monkey=2", "/x?key=***&monkey=2"),
        ("GET http://a:b@h/ failed", "GET http://***@h/ failed"),
        ("auth: bearer abcdefgh.ijk", "auth: bearer ***"),
        ("eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl expired", "*** expired"),
        ("/accounts/reset/MQ/c2h-abcdef/", "/accounts/reset/MQ/***/"),
        ("the token is missing", "the token is missing"),
    ],
)
def test_only_what_looks_like_a_secret_is_redacted(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.django_db
def test_each_failed_answer_leaves_exactly_one_row(client: Any) -> None:
    client.get("/api/runs/7/?token=hush")
    client.get("/nowhere/at-all/")
    rows = ErrorLog.objects.order_by("id")
    assert [(row.status_code, row.path.partition("?")[0]) for row in rows] == [
        (401, "/api/runs/7/"),
        (404, "/nowhere/at-all/"),
    ]
    assert "hush" not in "".join(row.path + row.message for row in rows)

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from ingest.fetch.backoff import jittered_wait, read_retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("9999999999", 9999999999.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", None),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("1e3", None),
        ("٣", None),
        ("Sun, 99 Mar 2026 12:00:30 GMT", None),
        ("9" * 400, 1e12),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251629934399.0),
        ("Sunday, 01-Mar-94 12:00:30 GMT", None),
        ("2026-03-01T12:00:30Z", None),
        ("30, 30", None),
        ("+30", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_otherwise_absent(
    value: str | None, seconds: float | None
):
    assert read_retry_after(value, now=NOW) == seconds


def test_the_wait_doubles_up_to_the_cap_and_is_never_nothing():
    source = random.Random(7)
    ceilings = [1, 2, 4, 8, 16, 32, 60, 60]
    for attempt, ceiling in enumerate(ceilings, start=1):
        waits = [
            jittered_wait(attempt, base_seconds=1, cap_seconds=60, random_source=source)
            for _ in range(500)
        ]
        assert min(waits) > 0
        assert ceiling * 0.9 < max(waits) <= ceiling


def test_a_row_that_is_tried_for_ever_does_not_overflow():
    wait = jittered_wait(10**6, base_seconds=1, cap_seconds=60, random_source=random.Random(1))
    assert wait <= 60

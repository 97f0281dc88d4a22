"""Cron texts: what is understood, what is refused, and when they come round."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from ingest.cron import CronInvalid, parse_cron


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "five fields"),
        ("@daily", "five fields"),
        ("0 0 3 * * *", "there are 6"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("0 0 0 * *", "day of month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day of week"),
        ("*/0 * * * *", "minute"),
        ("1.5 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("\N{ARABIC-INDIC DIGIT ONE} * * * *", "minute"),
        ("0 0 31 2 *", "no day that exists"),
        ("0 0 1 * 1", "day of the month and a day of the week"),
        (",".join(["1"] * 200) + " * * * *", "longer than"),
    ],
)
def test_a_text_that_names_no_schedule_is_refused_with_what_is_wrong(text: str, what: str):
    with pytest.raises(CronInvalid, match=what):
        parse_cron(text)


@pytest.mark.parametrize(
    ("text", "after", "then"),
    [
        ("0 3 * * *", datetime(2026, 3, 1, 3, tzinfo=UTC), datetime(2026, 3, 2, 3, tzinfo=UTC)),
        (
            "*/15 * * * *",
            datetime(2026, 3, 1, 3, 7, tzinfo=UTC),
            datetime(2026, 3, 1, 3, 15, tzinfo=UTC),
        ),
        ("0 0 29 2 *", datetime(2026, 3, 1, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
        (
            "0 6 * * MON-FRI",
            datetime(2026, 3, 6, 7, tzinfo=UTC),
            datetime(2026, 3, 9, 6, tzinfo=UTC),
        ),
        ("0 6 * * 7", datetime(2026, 3, 6, 7, tzinfo=UTC), datetime(2026, 3, 8, 6, tzinfo=UTC)),
        ("0 6 * * 6-7", datetime(2026, 3, 7, 7, tzinfo=UTC), datetime(2026, 3, 8, 6, tzinfo=UTC)),
    ],
)
def test_the_next_time_is_the_one_that_the_text_names(text: str, after: datetime, then: datetime):
    assert parse_cron(text).next_after(after, zone=UTC) == then


def test_hours_are_those_of_the_zone_in_summer_and_winter():
    new_york = ZoneInfo("America/New_York")
    three = parse_cron("0 3 * * *")
    moment = datetime(2026, 10, 30, 12, tzinfo=UTC)
    hours = []
    for _ in range(3):
        moment = three.next_after(moment, zone=new_york)
        hours.append(moment.hour)
        assert moment.astimezone(new_york).hour == 3
    assert hours == [7, 8, 8]

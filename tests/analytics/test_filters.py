"""Filters of the dashboards, as they stand in the address; and how time is cut into slots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from analytics.filters import MAX_SLOTS, Filters, cut_period, read_filters

NOW = datetime(2026, 3, 4, 10, 7, 31, tzinfo=UTC)


def test_without_parameters_the_last_24_hours_are_shown_in_five_minutes_each():
    period = read_filters("").period(NOW)

    assert period.width_seconds == 300
    assert period.count == 288
    assert period.until == datetime(2026, 3, 4, 10, 10, tzinfo=UTC)
    assert period.since == datetime(2026, 3, 3, 10, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("preset", "width_seconds", "count"),
    [("1h", 60, 60), ("24h", 300, 288), ("7d", 3_600, 168), ("30d", 10_800, 240)],
)
def test_a_slot_is_as_wide_as_the_time_is_long(preset, width_seconds, count):
    period = read_filters(f"?range={preset}").period(NOW)

    assert (period.width_seconds, period.count) == (width_seconds, count)
    assert period.start_of(period.count - 1) <= NOW < period.until


@pytest.mark.parametrize("hours", [0.001, 1, 7.9, 8, 9, 41, 42, 500, 4_000, 90_000, 1_700_000])
@pytest.mark.parametrize("is_open", [True, False])
def test_there_are_never_too_many_slots_and_they_cover_the_time(hours, is_open):
    since = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    until = since + timedelta(hours=hours)

    period = cut_period(since, until, is_open=is_open)

    assert 1 <= period.count <= MAX_SLOTS
    assert period.until >= until
    if not is_open:
        assert period.since <= since


def test_days_begin_at_midnight_utc_and_weeks_on_mondays():
    days = cut_period(NOW - timedelta(days=200), NOW, is_open=False)
    weeks = cut_period(NOW - timedelta(days=2000), NOW, is_open=False)

    assert days.width_seconds == 86_400
    assert (days.since.hour, days.since.minute) == (0, 0)
    assert weeks.width_seconds == 604_800
    assert weeks.since.weekday() == 0


def test_a_fixed_time_goes_before_the_preset_and_is_widened_to_whole_slots():
    filters = read_filters("range=1h&since=2026-03-01T10:00:30Z&until=2026-03-01T10:59:30Z")
    period = filters.period(NOW)

    assert period.since == datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
    assert period.until == datetime(2026, 3, 1, 11, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:00:00+02:00",
        "2026-03-01T12:00:00 02:00",
        "2026-03-01T10:00:00",
        "2026-03-01T10",
    ],
)
def test_times_are_read_in_any_zone_and_meant_in_utc(text):
    assert read_filters({"since": [text]}).since == datetime(2026, 3, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "ignored"),
    [
        ("range=2h", ("range",)),
        ("since=yesterday", ("since",)),
        ("until=9999-12-31T23:59:59-23:00", ("until",)),
        ("since=0001-01-01", ("since",)),
        ("since=2026-03-02&until=2026-03-01", ("since", "until")),
        ("source=../x,cities", ("source",)),
        ("outcome=planned,failed,nope", ("outcome",)),
        ("since=%00", ("since",)),
    ],
)
def test_what_makes_no_sense_is_left_out_and_named(query, ignored):
    filters = read_filters(query)

    assert filters.ignored == ignored
    assert filters.period(NOW).count <= MAX_SLOTS
    assert "x" not in filters.sources
    assert set(filters.outcomes) <= {"failed"}


def test_the_address_of_filters_is_canonical_and_says_the_same():
    filters = read_filters("outcome=refused,failed&source=b,a,a&range=7d&utm=1")

    assert filters.as_query() == "range=7d&source=a,b&outcome=failed,refused"
    assert read_filters(filters.as_query()) == filters
    assert Filters().as_query() == ""


def test_a_fixed_time_survives_the_way_through_the_address():
    filters = read_filters("since=2026-03-01T10:00:00Z&until=2026-03-01T12:00:00Z&source=cities")

    assert filters.is_fixed
    assert filters.as_query() == (
        "since=2026-03-01T10:00:00Z&until=2026-03-01T12:00:00Z&source=cities"
    )
    assert read_filters(filters.as_query()) == filters

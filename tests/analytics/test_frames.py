"""Roll-ups as DataFrames: complete, in UTC, and never from the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from analytics import frames
from analytics.filters import read_filters
from ingest.outcomes import Outcome, RunState
from tests.analytics.factories import add_bucket
from tests.ingest.factories import RunFactory, SourceFactory, configure, finish_run

NOW = datetime(2026, 3, 4, 10, 7, 30, tzinfo=UTC)
MINUTE = datetime(2026, 3, 4, 10, 5, tzinfo=UTC)


@pytest.fixture
def run(db):
    return RunFactory()


def read(query: str = "range=1h"):
    filters = read_filters(query)
    period = filters.period(NOW)
    return frames.read_buckets(filters, period), period


def test_every_slot_is_there_and_zero_where_nothing_was_sent(run):
    add_bucket(run, MINUTE, sends=7)
    add_bucket(run, MINUTE, outcome=Outcome.FAILED, sends=2)
    add_bucket(run, MINUTE - timedelta(minutes=10), sends=5)

    counts: Any = frames.count_outcomes(*read())

    assert len(counts) == 60
    assert counts.index[0] == datetime(2026, 3, 4, 9, 8, tzinfo=UTC)
    assert counts.index[-1] == datetime(2026, 3, 4, 10, 7, tzinfo=UTC)
    assert str(counts.index.tz) == "UTC"
    assert list(counts.columns) == ["delivered", "failed"]
    assert counts.loc[MINUTE].tolist() == [7, 2]
    assert counts.to_numpy().sum() == 14
    assert (counts.drop(index=[MINUTE, MINUTE - timedelta(minutes=10)]) == 0).all(axis=None)


def test_a_bucket_written_in_another_zone_lies_where_utc_puts_it(run):
    istanbul = timezone(timedelta(hours=3))
    add_bucket(run, datetime(2026, 3, 4, 13, 5, tzinfo=istanbul), sends=3)

    counts: Any = frames.count_outcomes(*read())

    assert counts.loc[MINUTE, "delivered"] == 3


@pytest.mark.parametrize("query", ["range=1h", "range=24h", "range=7d", "range=30d"])
def test_the_sums_are_the_same_however_wide_the_slots(run, query):
    for minutes in range(0, 40, 3):
        add_bucket(run, MINUTE - timedelta(minutes=minutes), sends=2, latency_ms_max=minutes)
    add_bucket(run, MINUTE, outcome=Outcome.EMPTY, sends=1, records=0, latency_ms_sum=900)

    buckets, period = read(query)
    totals = frames.sum_up(buckets)

    assert (totals.sends, totals.delivered, totals.records) == (29, 28, 28)
    assert totals.mean_ms == pytest.approx((2_800 + 900) / 29)
    assert totals.max_ms == 100
    assert totals.outcomes == {"delivered": 28, "empty": 1}
    assert frames.count_outcomes(buckets, period).to_numpy().sum() == 29


@pytest.mark.parametrize("query", ["range=1h", "range=30d"])
def test_only_what_lies_inside_of_the_time_counts(run, query):
    _, period = read(query)
    add_bucket(run, period.since, sends=1)
    add_bucket(run, period.since - timedelta(minutes=1), sends=10)
    add_bucket(run, period.until - timedelta(minutes=1), sends=100)
    add_bucket(run, period.until, sends=1_000)

    counts: Any = frames.count_outcomes(*read(query))

    assert counts.iloc[0].tolist() == [1]
    assert counts.iloc[-1].tolist() == [100]
    assert counts.to_numpy().sum() == 101


@pytest.mark.parametrize("preset", ["1h", "7d"])
def test_filters_choose_sources_and_outcomes_and_leave_archived_sources_out(db, preset):
    for slug, archived_at in (("a", None), ("b", None), ("gone", NOW)):
        run = RunFactory(source=SourceFactory(slug=slug, archived_at=archived_at))
        add_bucket(run, MINUTE, sends=1)
        add_bucket(run, MINUTE, outcome=Outcome.FAILED, sends=10)

    def total(query: str) -> int:
        return frames.sum_up(read(f"range={preset}&{query}")[0]).sends

    assert total("") == 22
    assert total("source=a") == 11
    assert total("source=a,b&outcome=failed") == 20
    assert total("source=gone") == 0
    assert total("source=nobody") == 0


def test_runs_are_named_where_a_bar_has_but_one(db):
    first = RunFactory()
    second = RunFactory()
    add_bucket(first, MINUTE)
    add_bucket(second, MINUTE)
    add_bucket(second, MINUTE, outcome=Outcome.FAILED)

    runs: Any = frames.name_single_runs(*read())

    assert runs.loc[MINUTE, "delivered"] == 0
    assert runs.loc[MINUTE, "failed"] == second.pk


def test_the_slot_that_lasts_still_is_measured_by_the_time_that_has_passed(run):
    add_bucket(run, MINUTE, sends=120, records=60)
    add_bucket(run, NOW.replace(second=0), sends=60, records=30)

    rates: Any = frames.measure_throughput(*read(), now=NOW)

    assert rates.loc[MINUTE].tolist() == [2, 1]
    assert rates.iloc[-1].tolist() == [2, 1]
    assert rates["sends"].sum() == 4


def test_a_slot_to_come_has_no_throughput(run):
    add_bucket(run, MINUTE)
    filters = read_filters("since=2026-03-04T10:00:00Z&until=2026-03-04T10:20:00Z")
    period = filters.period(NOW)

    rates: Any = frames.measure_throughput(frames.read_buckets(filters, period), period, now=NOW)

    assert rates["sends"].isna().tolist() == [False] * 8 + [True] * 12


def test_latency_is_the_mean_over_all_sends_and_nothing_where_there_were_none(run):
    add_bucket(run, MINUTE, sends=3, latency_ms_sum=30, latency_ms_max=12)
    add_bucket(run, MINUTE, outcome=Outcome.FAILED, sends=1, latency_ms_sum=970, latency_ms_max=970)

    latency: Any = frames.measure_latency(*read())

    assert latency.loc[MINUTE].tolist() == [250, 970]
    assert latency.drop(index=MINUTE).isna().all(axis=None)


def test_an_empty_time_has_empty_frames(db):
    buckets, period = read()

    assert frames.count_outcomes(buckets, period).empty
    assert frames.name_single_runs(buckets, period).empty
    assert (frames.measure_throughput(buckets, period, now=NOW) == 0).all(axis=None)
    assert frames.measure_latency(buckets, period).isna().all(axis=None)
    assert frames.sum_up(buckets).mean_ms is None
    assert frames.read_completeness(read_filters("")).empty


def test_completeness_is_that_of_the_latest_finished_run(db):
    cities = SourceFactory(slug="cities")
    finish_run(cities, ["delivered"] * 4, state=RunState.COMPLETE)
    latest = finish_run(cities, ["delivered", "failed", "delivered", "missing"])
    RunFactory(source=cities, state=RunState.FETCHING, planned_total=9)
    rivers = SourceFactory(slug="rivers")
    finish_run(rivers, ["delivered"] * 2, state=RunState.COMPLETE)
    SourceFactory(slug="never")
    finish_run(SourceFactory(slug="gone", archived_at=NOW), ["failed"])

    completeness = frames.read_completeness(read_filters(""))

    assert completeness[["slug", "share"]].to_numpy().tolist() == [["cities", 0.5], ["rivers", 1]]
    assert completeness.loc[0, "run_id"] == latest.pk
    assert frames.read_completeness(read_filters("source=rivers"))["slug"].tolist() == ["rivers"]


def test_accepted_outcomes_count_as_good_but_only_a_complete_run_is_complete(db):
    source = SourceFactory(configuration=configure("a", retry={"accept": ["missing"]}))
    finish_run(source, ["delivered", "missing", "missing", "failed"])
    other = SourceFactory(configuration=configure("b", retry={"accept": ["missing"]}))
    finish_run(other, ["delivered", "missing"])

    shares = frames.read_completeness(read_filters(""))["share"].tolist()

    assert shares[0] == 0.75
    assert 0.999 < shares[1] < 1


def test_a_run_that_planned_nothing_is_complete_only_if_it_says_so(db):
    finish_run(SourceFactory(slug="blocked"), [], state=RunState.BLOCKED)
    finish_run(SourceFactory(slug="empty"), [], state=RunState.COMPLETE)

    completeness = frames.read_completeness(read_filters("")).set_index("slug")

    assert completeness["share"].to_dict() == {"blocked": 0, "empty": 1}

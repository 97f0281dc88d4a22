"""The run log as CSV."""

from __future__ import annotations

import csv
import io
import tracemalloc
from typing import Any

import pytest

from ingest import ledger, runlog
from ingest.configuration import parse_configuration
from ingest.models import Request
from tests.ingest.clients import visit_as
from tests.ingest.factories import RunFactory, SourceFactory, UserFactory, configure, finish_run


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.django_db
def test_the_log_has_one_line_per_request_in_plan_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runlog, "ROWS_PER_CHUNK", 3)
    run = finish_run(SourceFactory(slug="cities"), ["delivered", "failed"] * 4)
    response = visit_as(UserFactory()).get(f"/runs/{run.pk}/log.csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    name = f'attachment; filename="cities-run-{run.pk}.csv"'
    assert response.headers["Content-Disposition"] == name
    rows = rows_of(response.getvalue().decode())
    assert [row["key"] for row in rows] == list("12345678")
    assert rows[1] | {"evidence": ""} == {
        "key": "2", "url": "https://api.example.org/cities/2", "outcome": "failed",
        "attempts": "1", "status_code": "500", "latency_ms": "", "records": "0", "error": "",
        "evidence": "", "finished_at": "2026-03-01T12:00:00+00:00",
    }  # fmt: skip


@pytest.mark.django_db
def test_an_empty_run_still_names_its_columns() -> None:
    run = finish_run(SourceFactory(), [])
    text = visit_as(UserFactory()).get(f"/runs/{run.pk}/log.csv").getvalue().decode()
    assert text.strip() == ",".join(runlog.COLUMNS)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("key", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("＝1", "'＝1"),
        ("-5", "-5"),
        ("1.5", "1.5"),
        ('a "quoted", line\nand more', 'a "quoted", line\nand more'),
        ("İstanbul", "İstanbul"),
    ],
)
def test_no_cell_is_a_formula(key: str, cell: str) -> None:
    run = finish_run(SourceFactory(), ["failed"])
    Request.objects.update(key=key)
    text = visit_as(UserFactory()).get(f"/runs/{run.pk}/log.csv").getvalue().decode()
    assert rows_of(text)[0]["key"] == cell


@pytest.mark.django_db
def test_the_log_is_read_in_chunks_and_not_at_once(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(runlog, "ROWS_PER_CHUNK", 2)
    run = finish_run(SourceFactory(), ["delivered"] * 5)
    chunks = runlog.write_run_log(run)
    with django_assert_num_queries(1):
        assert next(chunks).count("\r\n") == 3
    with django_assert_num_queries(3):
        assert sum(chunk.count("\r\n") for chunk in chunks) == 3


@pytest.mark.django_db
def test_the_memory_that_a_log_takes_does_not_grow_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runlog, "ROWS_PER_CHUNK", 100)
    peaks = []
    for stop in (300, 1_500):
        run = RunFactory(source__configuration=configure("many"), planned_total=stop)
        plan = {"type": "range", "name": "id", "start": 1, "stop": stop}
        ledger.plan_rows(run, parse_configuration({**run.configuration["source"], "plan": plan}))
        tracemalloc.start()
        try:
            assert sum(chunk.count("\r\n") for chunk in runlog.write_run_log(run)) == stop + 1
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]

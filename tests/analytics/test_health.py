"""The dashboard *ingestion health*: its callback, its page, its files."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import plotly
import pytest
from django.contrib.staticfiles import finders
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from analytics import drill, frames
from analytics.filters import MAX_SLOTS, read_filters
from ingest.models import ErrorLog
from ingest.outcomes import Outcome, RunState
from portal.config import BASE_DIR
from tests.analytics.dash import APP, OUTPUTS, ask
from tests.analytics.factories import add_bucket
from tests.ingest.factories import (
    FetchErrorFactory,
    RequestFactory,
    RunFactory,
    SourceFactory,
    finish_run,
)


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The present minute, which lasts as long as the test."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    return now.replace(second=0, microsecond=0)


@pytest.fixture
def run(user):
    return RunFactory(source=SourceFactory(slug="cities", owner=user))


def figures_of(answer) -> dict[str, Any]:
    assert answer.status_code == 200
    response = answer.json()["response"]
    assert set(response) == {name for name, _ in OUTPUTS}
    return {name: part["figure"] for name, part in response.items() if "figure" in part}


def values(figure: dict[str, Any], name: str) -> list[Any]:
    return next(trace["y"] for trace in figure["data"] if trace["name"] == name)


def urls(figure: dict[str, Any]) -> list[str]:
    return [url for trace in figure["data"] for url in trace["customdata"] if url]


def text_of(node) -> str:
    if isinstance(node, dict):
        return text_of(node.get("props", {}).get("children"))
    if isinstance(node, list):
        return " ".join(text_of(child) for child in node)
    return "" if node is None else str(node)


def test_the_charts_show_what_the_rollups_hold(browser, run, minute):
    add_bucket(run, minute, sends=120, latency_ms_sum=6_000, latency_ms_max=80)
    add_bucket(run, minute, outcome=Outcome.FAILED, sends=3, records=0)
    finish_run(SourceFactory(slug="rivers"), ["delivered"] * 4, state=RunState.COMPLETE)

    answer = ask(browser, search="?range=1h")
    drawn = figures_of(answer)

    assert values(drawn["outcomes"], "delivered")[-1] == 120
    assert values(drawn["outcomes"], "failed")[-1] == 3
    assert sum(values(drawn["outcomes"], "delivered")) == 120
    assert values(drawn["latency"], "longest")[-1] == 100
    assert max(values(drawn["throughput"], "sends")) > 1
    assert drawn["completeness"]["data"][0]["text"] == ["100 %, complete"]
    totals = text_of(answer.json()["response"]["totals"]["children"])
    assert "Requests sent 123 Delivered 97.5 % Records received 120" in totals


def test_filters_of_the_address_choose_what_is_shown(browser, run, minute):
    add_bucket(run, minute, sends=5)
    add_bucket(RunFactory(), minute, sends=7)
    add_bucket(run, minute, outcome=Outcome.EMPTY)

    def names_and_sends(search: str) -> dict[str, int]:
        figure = figures_of(ask(browser, search=search))["outcomes"]
        return {trace["name"]: sum(trace["y"]) for trace in figure["data"]}

    assert names_and_sends("") == {"delivered": 12, "empty": 1}
    assert names_and_sends("?source=cities") == {"delivered": 5, "empty": 1}
    assert names_and_sends("?outcome=empty") == {"empty": 1}
    assert names_and_sends("?until=2026-01-01") == {}


def test_without_any_run_the_charts_say_so(browser):
    drawn = figures_of(ask(browser))

    for figure in drawn.values():
        assert figure["data"] == []
        assert figure["layout"]["annotations"][0]["text"].startswith("No ")


def test_what_the_address_says_wrong_is_named(browser):
    answer = ask(browser, search="?range=9y&outcome=planned")

    status = text_of(answer.json()["response"]["status"]["children"])
    assert "Not understood and left out: range, outcome." in status


@pytest.mark.parametrize(
    "value", [None, {}, {"search": None}, {"search": 7}, {"search": "?" + "a=b&" * 2_000}]
)
def test_a_strange_question_is_answered(browser, value):
    body = {
        "output": "..{}..".format("...".join(f"{name}.{what}" for name, what in OUTPUTS)),
        "outputs": [{"id": name, "property": what} for name, what in OUTPUTS],
        "inputs": [{"id": "question", "property": "data", "value": value}],
        "changedPropIds": ["question.data"],
    }
    answer = browser.post(
        f"{APP}/_dash-update-component", json.dumps(body), content_type="application/json"
    )

    assert answer.status_code in (200, 204)


def test_the_theme_of_the_page_is_that_of_the_charts(browser, run, minute):
    add_bucket(run, minute)

    light = figures_of(ask(browser, theme="light"))["outcomes"]["layout"]["font"]["color"]
    dark = figures_of(ask(browser, theme="dark"))["outcomes"]["layout"]["font"]["color"]

    assert light != dark
    assert figures_of(ask(browser, theme="<b>"))["outcomes"]["layout"]["font"]["color"] == light


# --- drill-down ----------------------------------------------------------------------------------


def test_a_failed_bar_leads_the_owner_to_as_many_errors_as_it_counts(browser, user, run, minute):
    for attempt in range(3):
        FetchErrorFactory(
            request=RequestFactory(run=run),
            attempt=attempt + 1,
            occurred_at=minute + timedelta(seconds=20),
        )
    FetchErrorFactory(request=RequestFactory(run=run), occurred_at=minute + timedelta(minutes=1))
    add_bucket(run, minute, outcome=Outcome.FAILED, sends=3)

    figure = figures_of(ask(browser, search="?range=1h&source=cities"))["outcomes"]
    (url,) = urls(figure)
    parts = urlsplit(url)
    query = {name: value[0] for name, value in parse_qs(parts.query).items()}

    assert parts.path == "/search/"
    assert query == {
        "kind": "error",
        "outcome": "failed",
        "source": "cities",
        "since": f"{minute:%Y-%m-%dT%H:%M:%SZ}",
        "until": f"{minute + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
    }
    found = ErrorLog.objects.filter(
        outcome=query["outcome"],
        source__slug=query["source"],
        occurred_at__gte=query["since"],
        occurred_at__lt=query["until"],
    )
    assert found.count() == sum(values(figure, "failed")) == 3


def test_who_may_not_see_all_the_errors_is_led_to_the_run(browser, staff_browser, run, minute):
    foreign = RunFactory(source=SourceFactory(slug="foreign"))
    add_bucket(foreign, minute, outcome=Outcome.FAILED)

    assert urls(figures_of(ask(browser))["outcomes"]) == [f"/runs/{foreign.pk}/"]
    (url,) = urls(figures_of(ask(staff_browser))["outcomes"])
    assert url.startswith("/search/?kind=error&outcome=failed&since=")


def test_a_delivered_bar_leads_to_its_run_or_to_all_runs_when_it_has_several(browser, run, minute):
    add_bucket(run, minute)
    assert urls(figures_of(ask(browser))["outcomes"]) == [f"/runs/{run.pk}/"]

    add_bucket(RunFactory(), minute)
    assert urls(figures_of(ask(browser))["outcomes"]) == ["/runs/"]


def test_a_bar_of_completeness_leads_to_its_run(browser):
    run = finish_run(SourceFactory(), ["delivered", "failed"])

    assert urls(figures_of(ask(browser))["completeness"]) == [f"/runs/{run.pk}/"]


def test_sources_that_are_not_shown_do_not_matter_to_what_may_be_seen(user):
    mine, other = SourceFactory(slug="mine", owner=user), SourceFactory(slug="other")
    sources = frames.list_sources()

    assert mine != other
    assert drill.sees_all_errors(user, read_filters("source=mine"), sources)
    assert not drill.sees_all_errors(user, read_filters("source=mine,other"), sources)
    assert not drill.sees_all_errors(user, read_filters(""), sources)


# --- cost ----------------------------------------------------------------------------------------


def count_queries(client, search: str) -> int:
    ask(client, search=search)
    with CaptureQueriesContext(connection) as queries:
        ask(client, search=search)
    for query in queries:
        for table in ("ingest_request", "ingest_errorlog", "ingest_record", "ingest_delivery"):
            assert f'"{table}"' not in query["sql"]
    return len(queries)


@pytest.mark.parametrize("search", ["?range=1h", "?range=30d"])
def test_the_ledger_is_never_read_whatever_its_size(browser, run, minute, search):
    add_bucket(run, minute, sends=2)
    before = count_queries(browser, search)

    for _ in range(5):
        other = finish_run(SourceFactory(), ["delivered"] * 30 + ["failed"] * 10)
        for index in range(20):
            add_bucket(other, minute - timedelta(minutes=index), sends=2)
    FetchErrorFactory(request=RequestFactory(run=run, position=1_000))

    assert count_queries(browser, search) == before <= 9


def test_an_answer_stays_small_however_long_the_time(browser, run, minute):
    for index in range(40):
        add_bucket(run, minute - timedelta(hours=index * 17), outcome=Outcome.FAILED)

    for search in ("?range=24h", "?range=30d", f"?since=2005-01-01&until={minute:%Y}-12-31"):
        answer = ask(browser, search=search)
        bars = figures_of(answer)["outcomes"]["data"][0]["y"]
        assert len(bars) <= MAX_SLOTS
        assert len(answer.content) < 60_000


# --- the page around -----------------------------------------------------------------------------


def test_the_page_asks_strangers_to_sign_in(visitor):
    answer = visitor.get("/analytics/health/?range=7d")

    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/login/?next=/analytics/health/%3Frange%3D7d"


def test_the_page_hands_its_filters_to_the_frame_and_nothing_else(browser):
    page = browser.get('/analytics/health/?range=7d&source=cities&x="><script>').content.decode()

    assert re.findall(r'<iframe[^>]* src="([^"]+)"', page) == [
        "/dash/app/health/?range=7d&amp;source=cities"
    ]
    assert 'title="Charts of ingestion health"' in page
    assert "<script>" not in page


def test_the_numbers_are_on_the_page_without_javascript(browser, run, minute):
    add_bucket(run, minute, sends=1_234, latency_ms_sum=12_340, latency_ms_max=33)
    add_bucket(run, minute, outcome=Outcome.FAILED, sends=6, latency_ms_sum=0)
    finished = finish_run(SourceFactory(slug="rivers"), ["delivered"] * 3 + ["failed"])

    page = browser.get("/analytics/health/").content.decode()
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", page, re.S)]

    assert cells[cells.index("delivered") + 1] == "1,234"
    assert cells[cells.index("failed") + 1] == "6"
    assert cells[cells.index("All requests sent") + 1] == "1,240"
    row = cells.index("rivers")
    assert cells[row + 1 : row + 5] == [str(finished.pk), "incomplete", "4", "75 %, 1 missing"]
    assert f'href="/runs/{finished.pk}/"' in page


def test_the_page_and_the_charts_agree(browser, run, minute):
    add_bucket(run, minute, sends=77)

    page = browser.get("/analytics/health/?range=7d&source=cities").content.decode()
    figure = figures_of(ask(browser, search="?range=7d&source=cities"))["outcomes"]

    assert sum(values(figure, "delivered")) == 77
    assert '<td class="text-end">77</td>' in page


def test_an_empty_portal_has_an_honest_page(browser):
    page = browser.get("/analytics/health/").content.decode()

    assert "No requests were sent in this time." in page
    assert "No run has finished yet." in page


def test_the_menu_leads_to_the_page(browser):
    assert 'href="/analytics/health/"' in browser.get("/").content.decode()


def test_the_layout_offers_the_sources_and_the_outcomes_that_a_send_can_have(browser):
    SourceFactory(slug="cities")
    SourceFactory(slug="gone", archived_at=datetime(2026, 1, 1, tzinfo=UTC))

    layout = json.dumps(browser.get(f"{APP}/_dash-layout").json())

    assert '"value": "cities"' in layout
    assert '"gone"' not in layout
    for outcome in ("delivered", "blocked"):
        assert f'"value": "{outcome}"' in layout
    assert '"value": "planned"' not in layout


# --- files ---------------------------------------------------------------------------------------


def test_every_file_of_the_page_is_served_from_here(browser):
    page = browser.get(f"{APP}/").content.decode()
    links = re.findall(r"""(?:src|href)="([^"]+)\"""", page)

    assert len(links) >= 10
    assert any("plotly.min" in link for link in links) or any("dcc" in link for link in links)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert "unpkg" not in page
    assert "cdn." not in page
    for link in links:
        answer = browser.get(link, follow=True)
        assert answer.status_code == 200, link
        # To the end: closing it half-way would close the database of this test, too.
        assert b"".join(answer.streaming_content), link


def test_plotly_is_the_small_bundle_of_the_version_that_plotly_py_speaks_to():
    found = Path(finders.find("dash/component/plotly/package_data/plotly.min.js") or "")
    theirs = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"

    assert found.is_relative_to(BASE_DIR / "analytics")
    assert found.stat().st_size < theirs.stat().st_size / 3
    ours = re.search(r"plotly\.js \(basic - minified\) v([\d.]+)", found.read_text()[:200])
    assert ours
    assert f"v{ours[1]}\n" in theirs.read_text()[:200]
    assert (found.parent / "LICENSE").exists()
    readme = (found.parent.parent / "README.md").read_text()
    assert f"plotly.js-basic-dist-min@{ours[1]}" in readme


@pytest.mark.parametrize(
    "path",
    sorted((BASE_DIR / "analytics" / "static" / "analytics").iterdir()),
    ids=lambda p: p.name,
)
def test_our_own_files_load_nothing_from_elsewhere_and_write_no_html(path):
    text = path.read_text(encoding="utf-8")

    assert not re.search(r"https?://", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)

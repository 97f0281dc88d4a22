"""The pages of ingestion: who may open them, what they say, what they must not contain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from ingest.bars import WIDTH, draw_outcomes
from ingest.models import Run, RunEvent
from ingest.outcomes import Outcome, RunState
from tests.ingest.clients import visit_as
from tests.ingest.factories import (
    FetchErrorFactory,
    JobFactory,
    RequestFactory,
    RunFactory,
    ServerErrorFactory,
    SourceFactory,
    UserFactory,
    finish_run,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner() -> Any:
    return UserFactory()


@pytest.fixture
def report(owner: Any) -> Run:
    return finish_run(SourceFactory(slug="cities", owner=owner), ["delivered", "failed", "empty"])


def read(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_every_page_needs_a_login(report: Run) -> None:
    error = FetchErrorFactory(request=report.requests.get(outcome="failed"))
    for address in (
        "/sources/",
        "/sources/new/",
        "/sources/cities/",
        "/runs/",
        f"/runs/{report.pk}/",
        f"/runs/{report.pk}/log.csv",
        f"/errors/{error.pk}/",
        "/result/",
    ):
        response = visit_as().get(address)
        assert response.status_code == 302, address
        assert response.headers["Location"].startswith("/accounts/login/")


def test_what_is_not_there_is_404(owner: Any) -> None:
    client = visit_as(owner)
    for address in ("/sources/none/", "/runs/7/", "/runs/7/log.csv", "/errors/7/"):
        assert client.get(address).status_code == 404, address


def test_sources_are_listed_with_their_latest_run(owner: Any, report: Run) -> None:
    SourceFactory(slug="rivers")
    page = read(visit_as(owner), "/sources/")
    assert f"/runs/{report.pk}/" in page
    assert "incomplete" in text_of(page)
    assert "never run" in text_of(page)


def test_only_who_may_write_is_offered_to_start_a_run(owner: Any, report: Run) -> None:
    for address in ("/sources/", "/sources/cities/"):
        assert 'action="/sources/cities/start/"' in read(visit_as(owner), address)
        staff = visit_as(UserFactory(is_staff=True))
        assert 'action="/sources/cities/start/"' in read(staff, address)
        assert 'action="/sources/cities/start/"' not in read(visit_as(UserFactory()), address)


def test_a_source_shows_its_configuration_without_secrets(owner: Any) -> None:
    client = visit_as(owner)
    configuration = (
        '{"slug": "keyed", "request": {"url": "https://api.example.org/{id}", "api_key": '
        '{"in": "header", "name": "X-Key", "secret": "hush-hush"}}, '
        '"plan": {"type": "range", "name": "id", "start": 1, "stop": 2}}'
    )
    client.post("/sources/new/", {"configuration": configuration})
    page = read(client, "/sources/keyed/")
    assert "X-Key" in page
    assert "hush-hush" not in page


def test_what_comes_from_outside_is_escaped(owner: Any) -> None:
    evil = "<script>alert(1)</script>"
    source = SourceFactory(slug="evil", name=evil, owner=owner)
    run = finish_run(source, ["failed"])
    run.requests.update(key=evil, error=evil, evidence={"reason": evil})
    error = FetchErrorFactory(request=run.requests.get(), message=evil, error_type=evil)
    for address in (
        "/sources/", "/sources/evil/", f"/runs/{run.pk}/", f"/errors/{error.pk}/",
    ):  # fmt: skip
        assert evil not in read(visit_as(owner), address), address


def test_a_report_says_what_is_missing_and_why(owner: Any, report: Run) -> None:
    report.requests.filter(outcome="failed").update(evidence={"reason": "500 five times"})
    page = text_of(read(visit_as(owner), f"/runs/{report.pk}/"))
    assert "Not everything is here" in page
    assert "500 five times" in page
    assert "https://api.example.org/cities/2" in page
    assert re.search(r"Σ outcomes 3", page)
    assert re.search(r"Planned 3", page)
    assert re.search(r"Unknown 0", page)


def test_a_complete_report_says_that_nothing_was_left_out(owner: Any) -> None:
    run = finish_run(SourceFactory(), ["delivered"], state=RunState.COMPLETE)
    page = text_of(read(visit_as(owner), f"/runs/{run.pk}/"))
    assert "Nothing was left out" in page
    assert "every planned request was delivered or accepted" in page


def test_gaps_are_filtered_by_outcome_and_paged(owner: Any) -> None:
    run = finish_run(SourceFactory(), ["failed"] * 60 + ["empty"])
    client = visit_as(owner)
    first = read(client, f"/runs/{run.pk}/")
    assert first.count('<th scope="row" class="text-break">') == 50
    second = read(client, f"/runs/{run.pk}/?outcome=&page=2")
    assert second.count('<th scope="row" class="text-break">') == 11
    only = read(client, f"/runs/{run.pk}/?outcome=empty")
    assert only.count('<th scope="row" class="text-break">') == 1
    for odd in ("outcome=lost", "page=x", "page=999", "outcome=<b>"):
        assert client.get(f"/runs/{run.pk}/?{odd}").status_code == 200


def test_the_buttons_of_a_report_are_for_owner_and_staff(owner: Any, report: Run) -> None:
    active = RunFactory(source__owner=owner)
    for person, offered in (
        (owner, True),
        (UserFactory(is_staff=True), True),
        (UserFactory(), False),
    ):
        client = visit_as(person)
        page = read(client, f"/runs/{report.pk}/")
        assert (f'action="/runs/{report.pk}/sweep/"' in page) is offered
        assert f'action="/runs/{report.pk}/cancel/"' not in page
        page = read(client, f"/runs/{active.pk}/")
        assert (f'action="/runs/{active.pk}/cancel/"' in page) is offered
        assert f'action="/runs/{active.pk}/sweep/"' not in page


def test_a_run_that_goes_on_is_followed_by_a_script_and_a_finished_one_is_not(
    owner: Any, report: Run
) -> None:
    active = RunFactory(
        state=RunState.FETCHING, planned_total=2, started_at=timezone.now(), source__owner=owner
    )
    RequestFactory(run=active, position=0, outcome=Outcome.DELIVERED)
    RequestFactory(run=active, position=1)
    client = visit_as(owner)
    page = read(client, f"/runs/{active.pk}/")
    assert 'type="module" src="/static/ingest/run.js"' in page
    assert f'data-url="/api/runs/{active.pk}/"' in page
    assert re.search(r'<progress[^>]* max="2" value="1"', page)
    assert "run.js" not in read(client, f"/runs/{report.pk}/")


def test_events_are_shown_newest_first(owner: Any, report: Run) -> None:
    for seq, message in enumerate(["It has begun.", "It goes on."], start=1):
        RunEvent.objects.create(
            run=report, seq=seq, state=RunState.FETCHING, planned=3, done=seq, outcomes={},
            message=message,
        )  # fmt: skip
    page = read(visit_as(owner), f"/runs/{report.pk}/")
    assert page.index("It goes on.") < page.index("It has begun.")


def test_an_error_page_is_for_those_who_may_see_the_error(owner: Any, report: Run) -> None:
    fetch = FetchErrorFactory(request=report.requests.get(outcome="failed"))
    server = ServerErrorFactory(trace="Traceback: inside")
    staff, stranger = visit_as(UserFactory(is_staff=True)), visit_as(UserFactory())
    assert "https://api.example.org/cities/1" in read(visit_as(owner), f"/errors/{fetch.pk}/")
    assert stranger.get(f"/errors/{fetch.pk}/").status_code == 404
    assert visit_as(owner).get(f"/errors/{server.pk}/").status_code == 404
    assert "Traceback: inside" in read(staff, f"/errors/{server.pk}/")


def test_what_an_archived_source_leaves_behind_links_nowhere(owner: Any, report: Run) -> None:
    error = FetchErrorFactory(request=report.requests.get(outcome="failed"))
    JobFactory(user=owner, run=report)
    client = visit_as(owner)
    client.delete("/api/sources/cities/")
    page = read(client, f"/errors/{error.pk}/")
    assert f"/runs/{report.pk}/" not in page
    assert f"/runs/{report.pk}/" not in read(client, "/result/")


def test_jobs_are_listed_for_who_asked_for_them(owner: Any) -> None:
    JobFactory(user=owner, kind="rebuild", done=1, total=4, message="Half way")
    page = read(visit_as(owner), "/result/")
    assert "rebuild" in page
    assert "Half way" in page
    assert owner.email in page
    assert "rebuild" not in read(visit_as(UserFactory()), "/result/")


@pytest.mark.parametrize("address", ["/sources/", "/runs/", "/result/"])
def test_a_page_costs_the_same_queries_however_long_its_table_is(
    owner: Any, address: str, django_assert_max_num_queries: Any
) -> None:
    for _number in range(15):
        run = RunFactory(source__owner=owner, state=RunState.FETCHING, started_at=timezone.now())
        RequestFactory(run=run)
        JobFactory(user=owner, run=run)
    client = visit_as(owner)
    client.get(address)
    with django_assert_max_num_queries(7):
        client.get(address)


@pytest.mark.parametrize(
    "query", ["sort=slug", "sort=-state", "sort=planned_total", "sort=nonsense", "page=99"]
)
@pytest.mark.parametrize("address", ["/sources/", "/runs/", "/result/", "/sources/cities/"])
def test_a_table_can_be_sorted_and_survives_odd_parameters(
    owner: Any, report: Run, address: str, query: str
) -> None:
    response = visit_as(owner).get(f"{address}?{query}")
    # A list that pages by itself says 404 beyond its end; the runs of a source show the last page.
    beyond = query == "page=99" and address != "/sources/cities/"
    assert response.status_code == (404 if beyond else 200)


def test_no_page_holds_inline_scripts_styles_or_handlers(owner: Any, report: Run) -> None:
    error = FetchErrorFactory(request=report.requests.get(outcome="failed"))
    JobFactory(user=owner, run=report)
    client = visit_as(owner)
    for address in (
        "/sources/", "/sources/new/", "/sources/cities/", "/runs/", f"/runs/{report.pk}/",
        f"/errors/{error.pk}/", "/result/",
    ):  # fmt: skip
        page = read(client, address)
        main = page[page.index("<body") :]
        assert not re.search(r"\sstyle\s*=", main), address
        assert not re.search(r"\son[a-z]+\s*=", main), address
        assert not re.search(r"<script(?![^>]*\ssrc=)[^>]*>", main), address
        assert "http://" not in re.sub(r"https?://(testserver|api\.example\.org)", "", main)


def test_scripts_set_text_and_never_markup() -> None:
    scripts = list((Path(settings.BASE_DIR) / "ingest/static/ingest").glob("*.js"))
    assert scripts
    for script in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\.style\b|eval\(",
            script.read_text(),
        ), script.name


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"delivered": 1},
        {"delivered": 9_997, "failed": 3},
        dict.fromkeys(Outcome.values, 7),
        {"delivered": 10_000_000, **dict.fromkeys(("failed", "empty", "missing"), 1)},
    ],
)
def test_a_bar_is_filled_and_shows_every_outcome_that_counts(counts: dict[str, int]) -> None:
    bar = draw_outcomes(counts)
    assert [segment.outcome for segment in bar.segments if segment.width] == [
        segment.outcome for segment in bar.segments if counts.get(segment.outcome)
    ]
    assert sum(segment.width for segment in bar.segments) == (WIDTH if counts else 0)
    ends = [segment.x + segment.width for segment in bar.segments]
    assert [segment.x for segment in bar.segments] == [0, *ends[:-1]]
    assert bar.total == sum(counts.values())

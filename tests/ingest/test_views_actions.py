"""What the buttons and the form of the pages do, and for whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from ingest.models import Run, Source
from ingest.outcomes import RunState
from tests.ingest.clients import visit_as
from tests.ingest.factories import RunFactory, SourceFactory, UserFactory, finish_run

pytestmark = pytest.mark.django_db

GOOD = (
    '{"slug": "rivers", "request": {"url": "https://api.example.org/{id}"}, '
    '"plan": {"type": "range", "name": "id", "start": 1, "stop": 2}}'
)


@pytest.fixture
def owner() -> Any:
    return UserFactory()


def said(client: Client, address: str) -> str:
    return client.get(address).content.decode()


def test_the_form_begins_with_an_example_that_is_valid(owner: Any) -> None:
    client = visit_as(owner)
    form = client.get("/sources/new/").context["form"]
    response = client.post("/sources/new/", {"configuration": form["configuration"].value()})
    assert response.status_code == 302
    assert Source.objects.get().owner == owner


def test_a_new_source_belongs_to_its_maker_and_is_shown(owner: Any) -> None:
    client = visit_as(owner)
    response = client.post("/sources/new/", {"configuration": GOOD}, follow=True)
    assert response.redirect_chain == [("/sources/rivers/", 302)]
    assert "The source rivers was created." in response.content.decode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "required"),
        ("{", "This is not JSON"),
        ("[1]", "A JSON object is needed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"slug": "a\\u0000"}', "slug: Text may hold neither"),
        ('{"slug": 1e999}', "slug: The number is too large."),
        (GOOD.replace('"stop": 2', '"stop": 0'), "plan: "),
        (GOOD.replace('"slug"', '"colour": 1, "slug"'), "colour: is not a known key."),
    ],
    ids=lambda value: value[:12],
)
def test_a_wrong_configuration_comes_back_with_what_is_wrong(
    owner: Any, text: str, complaint: str
) -> None:
    response = visit_as(owner).post("/sources/new/", {"configuration": text})
    assert response.status_code == 200
    assert complaint in response.content.decode()
    assert not Source.objects.exists()


def test_the_start_button_starts_a_run(owner: Any) -> None:
    source = SourceFactory(slug="rivers", owner=owner)
    response = visit_as(owner).post("/sources/rivers/start/")
    run = Run.objects.get(source=source)
    assert response.headers["Location"] == f"/runs/{run.pk}/"
    assert run.started_by == owner


def test_starting_twice_leads_to_the_run_that_is_active(owner: Any) -> None:
    run = RunFactory(source=SourceFactory(slug="rivers", owner=owner))
    client = visit_as(owner)
    response = client.post("/sources/rivers/start/")
    assert response.headers["Location"] == f"/runs/{run.pk}/"
    assert f"Run {run.pk} of this source is active." in said(client, "/runs/")
    assert Run.objects.count() == 1


def test_the_sweep_button_fetches_what_is_missing(owner: Any) -> None:
    run = finish_run(SourceFactory(owner=owner), ["delivered", "failed"])
    client = visit_as(owner)
    assert client.post(f"/runs/{run.pk}/sweep/").status_code == 302
    run.refresh_from_db()
    assert run.state == RunState.SWEEPING
    client.post(f"/runs/{run.pk}/sweep/")
    assert "alert-danger" in said(client, f"/runs/{run.pk}/")


def test_the_cancel_button_stops_the_run(owner: Any) -> None:
    SourceFactory(slug="rivers", owner=owner)
    client = visit_as(owner)
    client.post("/sources/rivers/start/")
    run = Run.objects.get()
    client.post(f"/runs/{run.pk}/cancel/")
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED
    client.post(f"/runs/{run.pk}/cancel/")
    assert "finished already" in said(client, f"/runs/{run.pk}/")


@pytest.mark.parametrize("who", ["anonymous", "stranger"])
def test_nobody_else_can_press_a_button(who: str) -> None:
    finished = finish_run(SourceFactory(slug="idle"), ["failed"])
    active = RunFactory()
    client = visit_as(UserFactory() if who == "stranger" else None)
    for address in (
        "/sources/idle/start/",
        f"/runs/{finished.pk}/sweep/",
        f"/runs/{active.pk}/cancel/",
    ):
        response = client.post(address)
        assert response.status_code == (403 if who == "stranger" else 302), address
    assert Run.objects.count() == 2
    finished.refresh_from_db()
    active.refresh_from_db()
    assert (finished.state, active.state) == (RunState.INCOMPLETE, RunState.PLANNED)


def test_following_a_link_changes_nothing(owner: Any) -> None:
    run = RunFactory(source=SourceFactory(slug="rivers", owner=owner))
    client = visit_as(owner)
    for address in ("/sources/rivers/start/", f"/runs/{run.pk}/sweep/", f"/runs/{run.pk}/cancel/"):
        assert client.get(address).status_code == 405


def test_a_form_from_elsewhere_is_refused(owner: Any) -> None:
    run = RunFactory(source__owner=owner)
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    assert client.post(f"/runs/{run.pk}/cancel/").status_code == 403
    run.refresh_from_db()
    assert run.state == RunState.PLANNED

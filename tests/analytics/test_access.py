"""Who may open which Dash app: every address, walked as a stranger, a reader and staff."""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.admin.sites import site
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import get_resolver, reverse
from django_plotly_dash.models import DashApp, StatelessApp

from analytics import dash_urls
from analytics.access import AUDIENCES, RENDERER_HASH, Audience, guard, is_guarded
from analytics.checks import check_dashboards
from analytics.dashboards import NAMES, health
from tests.analytics.dash import APP, ask

PARTS = {
    "component": "dash",
    "cpe2": "dcc",
    "resource": "dash_core_components.js",
    "path": "style.css",
}


def addresses(app: str) -> dict[str, str]:
    """Every address below /dash/ for one app, by name."""
    found = {}
    for pattern in dash_urls.urlpatterns:
        kwargs = {name: PARTS.get(name, app) for name in pattern.pattern.converters}
        route = str(pattern.pattern)
        for name, value in kwargs.items():
            route = re.sub(rf"<(?:\w+:)?{name}>", value, route)
        found[route] = f"/dash/{route}"
    return found


def walk(client: Client, app: str) -> dict[str, int]:
    statuses = {}
    for name, address in addresses(app).items():
        for method in ("get", "post", "head", "options", "put"):
            statuses[f"{method} {name}"] = getattr(client, method)(address).status_code
    return statuses


def test_the_walk_finds_the_addresses_that_the_app_is_made_of():
    found = addresses("health")

    assert len(found) >= 9
    assert {
        "app/health/",
        "app/health/_dash-layout",
        "app/health/_dash-dependencies",
        "app/health/_dash-update-component",
        "app/health/_dash-component-suites/dash/dcc/dash_core_components.js",
    } <= set(found)


@pytest.mark.parametrize("app", [*AUDIENCES, "nope"])
def test_a_stranger_sees_nothing_of_any_dashboard(visitor, app):
    for name, status in walk(visitor, app).items():
        is_page = name.split()[1] == f"app/{app}/"
        assert status == (302 if is_page else 401), name

    page = visitor.get(f"/dash/app/{app}/")
    assert page["Location"] == f"{reverse('login')}?next=/dash/app/{app}/"


@pytest.mark.parametrize("app", ["errors", "searches", "nope", "HEALTH", "health2"])
def test_a_reader_is_refused_what_is_for_staff_and_what_does_not_exist(browser, app):
    assert set(walk(browser, app).values()) == {403}


@pytest.mark.parametrize("app", ["errors", "nope"])
def test_staff_learn_what_does_not_exist(staff_browser, app):
    assert app not in NAMES
    assert set(walk(staff_browser, app).values()) == {404}


def test_a_reader_may_open_what_is_for_all(browser):
    assert AUDIENCES["health"] is Audience.SIGNED_IN
    assert browser.get(f"{APP}/").status_code == 200
    assert browser.get(f"{APP}/_dash-layout").status_code == 200
    assert browser.get(f"{APP}/_dash-dependencies").status_code == 200
    assert ask(browser).status_code == 200


def test_an_account_that_was_closed_sees_nothing(browser, user):
    user.is_active = False
    user.save()

    assert ask(browser).status_code == 401


@pytest.mark.parametrize(("client", "status"), [("visitor", 401), ("browser", 403)])
def test_a_refusal_has_the_shape_of_every_json_error(request, client, status):
    answer = request.getfixturevalue(client).get("/dash/app/errors/_dash-layout")

    assert answer.status_code == status
    body = answer.json()
    assert body["success"] is False
    assert set(body["error"]) == {"status", "code", "message", "fields"}
    assert body["error"]["status"] == status


def test_no_address_below_dash_is_without_its_guard():
    assert all(is_guarded(pattern.callback) for pattern in dash_urls.urlpatterns)
    below = [
        entry
        for entry in get_resolver().url_patterns
        if "dash" in str(entry.pattern) and entry.pattern.match("dash/app/health/")
    ]
    assert [getattr(entry, "namespace", None) for entry in below] == ["the_django_plotly_dash"]


@pytest.mark.parametrize(
    "address",
    [
        "/dash/add_stateless_apps",
        "/dash/instance/health/",
        "/dash/instance/health/_dash-layout",
        "/dash/app/health/initial/x/_dash-layout",
        "/dpd/views/poke/",
    ],
)
def test_addresses_that_nobody_needs_are_not_there(staff_browser, address):
    assert staff_browser.get(address).status_code == 404
    assert not DashApp.objects.exists()


def test_a_callback_needs_the_token_of_the_page(user):
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert ask(client).status_code == 403

    page = client.get(f"{APP}/")
    token = client.cookies["csrftoken"].value
    assert '"csrf_token_name":"csrftoken"' in page.content.decode()
    assert '"csrf_header_name":"X-CSRFToken"' in page.content.decode()
    assert ask(client, headers={"X-CSRFToken": token}).status_code == 200


def test_an_open_dashboard_does_not_prolong_a_login(browser):
    ask(browser)
    before = Session.objects.get().expire_date, Session.objects.get().session_data

    answer = ask(browser)

    assert "sessionid" not in answer.cookies
    assert (Session.objects.get().expire_date, Session.objects.get().session_data) == before


def test_opening_an_app_writes_no_row(browser):
    assert list(StatelessApp.objects.values_list("app_name", flat=True)) == list(NAMES)
    browser.get(f"{APP}/")

    assert StatelessApp.objects.count() == len(NAMES)


def test_the_admin_has_no_door_to_the_apps_tables():
    assert not site.is_registered(DashApp)
    assert not site.is_registered(StatelessApp)


def test_without_its_guard_no_address_is_made(monkeypatch):
    assert dash_urls._choose_patterns()
    monkeypatch.setattr("analytics.dash_urls.is_guarded", lambda view: False)

    with pytest.raises(ImproperlyConfigured):
        dash_urls._choose_patterns()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"view_decorator": "analytics.access.gaurd"}, ["analytics.E001"]),
        ({"view_decorator": "django_plotly_dash.access.login_required"}, ["analytics.E001"]),
        ({"view_decorator": "guard"}, ["analytics.E001"]),
        ({"serve_locally": False}, ["analytics.E002"]),
    ],
)
def test_a_check_tells_when_the_guard_is_not_in_place(settings, changes, found):
    settings.PLOTLY_DASH = {**settings.PLOTLY_DASH, **changes}

    assert [error.id for error in check_dashboards()] == found


def test_the_guard_names_itself_on_what_it_guards():
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert is_guarded(guard(view, name="layout"))
    assert not is_guarded(view)


def policy_of(response) -> dict[str, set[str]]:
    parts = [part.split() for part in response["Content-Security-Policy"].split(";")]
    return {name: set(values) for name, *values in parts}


def test_only_the_page_of_an_app_may_have_styles_inside_and_its_one_script(browser):
    page = policy_of(browser.get(f"{APP}/"))
    layout = policy_of(browser.get(f"{APP}/_dash-layout"))
    host = policy_of(browser.get("/analytics/health/"))

    assert page["script-src"] == {"'self'", RENDERER_HASH}
    assert page["style-src"] == {"'self'", "'unsafe-inline'"}
    assert page["img-src"] == {"'self'", "data:", "blob:"}
    assert page["default-src"] == {"'none'"}
    assert page["frame-ancestors"] == {"'self'"}
    assert layout["script-src"] == layout["style-src"] == {"'self'"}
    assert host["script-src"] == host["style-src"] == host["frame-src"] == {"'self'"}


def test_the_hash_is_that_of_the_one_script_inside_of_the_page(browser):
    hashes = health.app.as_dash_instance().csp_hashes()
    page = re.sub(r"<!--.*?-->", "", browser.get(f"{APP}/").content.decode(), flags=re.S)
    inside = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", page, re.S)
    code = [body for body in inside if not _is_json(body)]

    assert hashes == [RENDERER_HASH]
    assert code == ["var renderer = new DashRenderer();"]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_the_page_of_an_app_may_be_framed_by_this_site_only(browser):
    assert browser.get(f"{APP}/")["X-Frame-Options"] == "SAMEORIGIN"


def test_a_reader_of_another_site_cannot_be_sent_into_a_loop(visitor):
    page = visitor.get(f"{APP}/?source=cities&range=7d")

    assert page["Location"].startswith("/accounts/login/?next=/dash/app/health/%3F")

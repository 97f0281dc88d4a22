"""What every page owes: no inline code, nothing from elsewhere, a policy that says so."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from ingest.models import Run, Source
from portal.config import BASE_DIR

TEMPLATES = sorted(
    path
    for folder in ("templates", "portal/templates", "ingest/templates", "search/templates")
    for path in (BASE_DIR / folder).rglob("*.html")
)
OWN_STATIC = sorted(
    path
    for room in ("portal", "ingest", "search")
    for path in (BASE_DIR / room / "static").rglob("*")
    if path.suffix in (".js", ".css") and "vendor" not in path.parts
)


def name_of(path: Path) -> str:
    return str(path.relative_to(BASE_DIR))


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_has_nothing_that_the_policy_forbids(path):
    text = path.read_text(encoding="utf-8")

    assert not re.search(r"<style\b", text)
    assert not re.search(r"\sstyle\s*=", text)
    assert not re.search(r"<[^>]*\son[a-z]+\s*=", text)
    assert not re.search(r"javascript:", text, re.I)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?(https?:)?//""", text)
    for attributes, body in re.findall(r"<script\b([^>]*)>(.*?)</script>", text, re.S):
        assert "src=" in attributes or 'type="application/json"' in attributes
        assert not body.strip() or 'type="application/json"' in attributes


@pytest.mark.parametrize("path", OWN_STATIC, ids=name_of)
def test_a_static_file_loads_nothing_from_elsewhere_and_writes_no_html(path):
    text = path.read_text(encoding="utf-8")

    assert not re.search(r"""(import|from|url\(|fetch\()\s*\(?["']?https?://""", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_vendored_files_ask_for_no_source_maps_and_have_their_licence():
    vendor = BASE_DIR / "portal" / "static" / "vendor"
    for path in vendor.rglob("*.min.*"):
        assert "sourceMappingURL" not in path.read_text(encoding="utf-8"), path
    for folder in vendor.iterdir():
        if folder.is_dir():
            assert (folder / "LICENSE").exists(), folder
            assert folder.name in (vendor / "README.md").read_text()


def policy_of(response) -> dict[str, set[str]]:
    parts = [part.split() for part in response["Content-Security-Policy"].split(";")]
    return {name: set(values) for name, *values in parts}


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/", "/accounts/login/", "/nope/", "/api/runs/", "/admin/"])
def test_every_answer_carries_the_strict_policy(visitor, address):
    policy = policy_of(visitor.get(address))

    assert policy["default-src"] == {"'none'"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == {"'self'"}
    assert policy["object-src"] == policy["base-uri"] == {"'none'"}
    assert policy["frame-ancestors"] == policy["form-action"] == {"'self'"}
    assert not any("unsafe" in value for values in policy.values() for value in values)


@pytest.mark.django_db
def test_every_page_carries_the_other_safety_headers(visitor):
    response = visitor.get("/")

    assert response["X-Frame-Options"] == "SAMEORIGIN"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in response


@pytest.mark.django_db
def test_what_is_refused_before_any_view_is_safe_too(visitor, settings):
    settings.MAX_BODY_BYTES = 1000

    for response in (
        visitor.post("/accounts/login/", {"username": "x" * 2000}),
        visitor.get("/%00"),
        visitor.get("/", headers={"Host": "elsewhere.example"}),
    ):
        assert response.status_code in (400, 404, 413)
        assert policy_of(response)["default-src"] == {"'none'"}, response.status_code
        assert response["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db
def test_the_api_explains_itself_from_files_of_this_server(visitor):
    schema = visitor.get("/api/schema/", {"format": "json"}, headers={"Accept": "application/json"})
    assert schema.status_code == 200
    assert {"/api/token/", "/api/sources/", "/api/runs/"} <= set(schema.json()["paths"])

    operations = [
        operation["operationId"]
        for methods in schema.json()["paths"].values()
        for operation in methods.values()
    ]
    assert len(operations) == len(set(operations))

    page = visitor.get("/api/docs/")
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)="([^"]+)\"""", page.content.decode())
    assert any("swagger-ui-bundle.js" in link for link in links)
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    policy = policy_of(page)
    assert policy["script-src"] == {"'self'"}
    assert policy["style-src"] == {"'self'", "'unsafe-inline'"}
    for link in links:
        answer = visitor.get(link)
        answer.close()
        assert answer.status_code == 200, link


@pytest.mark.django_db
def test_every_operation_says_what_it_answers_and_how_it_refuses(visitor):
    schema = visitor.get("/api/schema/", headers={"Accept": "application/json"}).json()

    for address, methods in schema["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            for status, answer in answers.items():
                forms = answer.get("content", {})
                described = forms.get("application/json", {}).get("schema")
                is_file = {"text/csv", "application/x-ndjson"} == set(forms)
                assert described or is_file or status == "204", (method, address, status)
                if status >= "400":
                    assert described["$ref"].endswith("/ErrorAnswer"), (method, address, status)
            assert "401" in answers, (method, address)


@pytest.mark.django_db
def test_the_schema_shows_what_a_sign_in_sends_and_gets(visitor):
    schema = visitor.get("/api/schema/", headers={"Accept": "application/json"}).json()

    def list_keys(part: dict[str, Any]) -> set[str]:
        name = part["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        return set(schema["components"]["schemas"][name]["properties"])

    sign_in = schema["paths"]["/api/token/"]["post"]
    assert list_keys(sign_in["requestBody"]) == {"email", "password"}
    assert list_keys(sign_in["responses"]["200"]) == {"access", "refresh"}
    refresh = schema["paths"]["/api/token/refresh/"]["post"]
    assert list_keys(refresh["requestBody"]) == {"refresh"}
    assert list_keys(refresh["responses"]["200"]) == {"access"}
    assert {"400", "401", "429"} <= set(sign_in["responses"])


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/api/token", "/api/sources", "/accounts/login"])
def test_an_address_without_its_last_slash_keeps_the_method(visitor, address):
    assert visitor.get(address).status_code == 301
    response = visitor.post(address, {})
    assert response.status_code == 308
    assert response["Location"] == f"{address}/"


@pytest.mark.django_db
def test_what_browsers_and_robots_ask_for_unbidden_is_there(visitor):
    assert visitor.get("/favicon.ico")["Location"] == "/static/portal/favicon.svg"
    assert visitor.get("/robots.txt").content == b"User-agent: *\nDisallow: /\n"


class Outline(HTMLParser):
    """Landmarks, headings, labels and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str]:
        return [value for _, a in self.tags if (value := a.get("id")) is not None]


@pytest.fixture
def runs(user):
    source = Source.objects.create(slug="cities", name="Cities <b>", configuration={}, owner=user)
    started = timezone.now() - timedelta(hours=1)
    Run.objects.create(
        source=source, configuration={}, state="complete", planned_total=10_000,
        delivered_count=10_000, started_at=started, finished_at=timezone.now(),
    )  # fmt: skip
    Run.objects.create(
        source=source, configuration={}, state="incomplete", planned_total=10, delivered_count=7,
        failed_count=3, started_at=started, finished_at=timezone.now(),
    )  # fmt: skip
    return Run.objects.create(source=source, configuration={}, state="fetching", planned_total=5)


class TestHome:
    pytestmark = pytest.mark.django_db

    def test_a_stranger_is_invited_to_sign_in_and_sees_no_data(self, visitor, runs):
        text = visitor.get("/").content.decode()

        assert "/accounts/login/" in text
        assert "Cities" not in text

    def test_an_empty_portal_says_so(self, browser):
        assert "No run yet" in browser.get("/").content.decode()

    def test_it_searches_and_shows_the_latest_runs(self, browser, runs):
        text = browser.get("/").content.decode()

        assert re.search(r'<form [^>]*method="get" action="/search/"[^>]*role="search"', text)
        assert "Cities &lt;b&gt;" in text
        assert "10,000 / 10,000" in text
        assert f'href="/runs/{runs.pk}/"' in text
        assert text.index(">incomplete<") < text.index(">complete<")

    def test_its_figures_are_those_of_the_database(self, browser, runs):
        context = browser.get("/").context

        assert context["source_count"] == 1
        assert context["active_count"] == 1
        assert context["gap_count"] == 1

    def test_it_asks_the_database_little_however_many_runs_there_are(
        self, browser, runs, django_assert_max_num_queries
    ):
        for number in range(20):
            source = Source.objects.create(slug=f"s{number}", name="x", configuration={})
            Run.objects.create(
                source=source, configuration={}, state="complete", planned_total=0,
                started_at=timezone.now(), finished_at=timezone.now(),
            )  # fmt: skip
        with django_assert_max_num_queries(20):
            browser.get("/")


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/", "/accounts/login/", "/accounts/password_change/"])
def test_a_page_can_be_used_by_keyboard_and_by_ear(browser, address):
    text = browser.get(address).content.decode()
    outline = Outline(text)

    assert outline.all("html")[0]["lang"] == "en"
    assert len(outline.all("main")) == len(outline.all("h1")) == 1
    assert re.search(r"<h1[^>]*>\s*\w", text)
    assert text.index('href="#content"') < text.index("<nav")
    ids = outline.ids()
    assert len(ids) == len(set(ids))
    labelled = {a.get("for") for a in outline.all("label")}
    for field in outline.all("input"):
        if field.get("type") != "hidden":
            assert field.get("id") in labelled or "aria-label" in field, field
    assert all("alt" in image for image in outline.all("img"))


@pytest.mark.django_db
class TestLanguages:
    def test_the_language_can_be_chosen_and_is_kept(self, visitor):
        response = visitor.post("/i18n/setlang/", {"language": "tr", "next": "/"})
        assert response.status_code == 302

        assert '<html lang="tr"' in visitor.get("/").content.decode()

    def test_the_browsers_wish_is_heard(self, visitor):
        page = visitor.get("/accounts/login/", headers={"Accept-Language": "uz,en;q=0.5"})
        assert '<html lang="uz"' in page.content.decode()

    def test_all_languages_are_offered(self, visitor):
        text = visitor.get("/").content.decode()
        for code in ("en", "tr", "uz"):
            assert re.search(rf'name="language"\s+value="{code}"', text)


@pytest.mark.django_db
def test_staff_find_the_admin_in_the_menu_and_others_do_not(client, browser, staff):
    client.force_login(staff)

    assert 'href="/admin/"' in client.get("/").content.decode()
    assert 'href="/admin/"' not in browser.get("/").content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/", "/search/", "/sources/", "/runs/", "/result/"])
def test_every_entry_of_the_menu_leads_to_a_page_that_knows_it_is_there(browser, address):
    text = browser.get(address).content.decode()

    assert re.search(rf'href="{address}" aria-current="page"', text)

"""The pages: the same answers as the API, as HTML that works without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from ingest.models import Record, Source
from portal.accounts.models import User
from search.engines.tantivy import TantivyView
from search.errors import SearchTimeout
from search.views import cut_pieces, flatten_fields

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(reader: User) -> Client:
    client = Client()
    client.force_login(reader)
    return client


def html(client: Client, path: str = "/search/", status: int = 200, **parameters: Any) -> str:
    response = client.get(path, parameters)
    assert response.status_code == status
    return response.content.decode()


def test_results_are_marked_and_escaped(store: Store, drain: Drain, client: Client) -> None:
    record = store("İstanbul <script>", body="ağaç & dal")
    drain()
    page = html(client, q="istnbul agac")
    assert f'<a href="/records/{record.pk}/"><mark>İstanbul</mark> &lt;script&gt;</a>' in page
    assert "<mark>ağaç</mark> &amp; dal" in page
    assert 'value="istnbul agac"' in page


def test_facets_are_links_that_narrow_and_widen(
    store: Store, drain: Drain, client: Client, source: Source
) -> None:
    other = Source.objects.create(slug="osm", name="OSM", configuration={})
    store("river one")
    store("river two", source=other)
    drain()
    assert "/search/?q=river&amp;source=osm" in html(client, q="river")
    narrowed = html(client, q="river", source="osm")
    assert "river</mark> two" in narrowed
    assert "river</mark> one" not in narrowed
    assert 'href="/search/?q=river"' in narrowed


def test_the_histogram_links_to_its_times(store: Store, drain: Drain, client: Client) -> None:
    for day in range(3):
        store("tick", occurred_at=T0 + timedelta(days=day))
    drain()
    page = html(client, q="tick")
    assert page.count("<rect") == 6
    assert "since=2026-01-0" in page
    assert "1000,0" not in html(client, q="tick")


def test_pages_follow_by_link(store: Store, drain: Drain, client: Client) -> None:
    for _ in range(5):
        store("leaf")
    drain()
    response = client.get("/search/", {"q": "leaf", "size": "3"})
    assert len(response.context["hits"]) == 3
    following = client.get(response.context["next_url"])
    assert len(following.context["hits"]) == 2
    assert following.context["next_url"] is None
    assert following.context["first_url"] == "/search/?q=leaf&size=3"


def test_warnings_and_coverage_are_shown(store: Store, drain: Drain, client: Client) -> None:
    store("x")
    drain()
    store("pending one")
    page = html(client, q="x*")
    assert "No special meaning here" in page
    assert "1 change is not searchable yet" in page


def test_another_spelling_is_a_link_that_keeps_the_filters(
    store: Store, drain: Drain, client: Client
) -> None:
    store("Istanbul")
    drain()
    page = html(client, q="istnbul ", kind="record")
    assert 'Did you mean <a href="/search/?q=istanbul&amp;kind=record"><em>istanbul</em>' in page
    assert "Did you mean <a" not in html(client, q="istanbul")


def test_all_hits_can_be_exported_as_they_are_filtered(
    store: Store, drain: Drain, client: Client
) -> None:
    store("leaf")
    drain()
    page = html(client, q="leaf", kind="record")
    for form in ("csv", "ndjson"):
        assert f"/api/search/export/?q=leaf&amp;kind=record&amp;format={form}" in page
    assert "/api/search/export/" not in html(client, q="zzzz")


def test_the_staff_is_told_what_the_engine_needs(
    engine: Any, client: Client, staff: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"ok": True, "reason": "", "hint": "Run the rebuild."}
    monkeypatch.setattr("search.views.engine_status", lambda: told)
    assert "Run the rebuild." not in html(client)
    client.force_login(staff)
    assert "Run the rebuild." in html(client)


def test_a_wrong_parameter_is_explained_and_keeps_the_form(client: Client, engine: Any) -> None:
    page = html(client, status=400, q="keep me", size="0")
    assert "This search cannot be run" in page
    assert "size:" in page
    assert 'value="keep me"' in page


def test_an_engine_that_is_down_is_explained(store: Store, client: Client, index_dir: Path) -> None:
    store("not indexed")
    response = client.get("/search/", {"q": "x"})
    assert response.status_code == 503
    assert response["Retry-After"]
    assert "Search is not reachable" in response.content.decode()


def test_a_page_asks_for_the_same_patience_as_the_api(
    store: Store, client: Client, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("Istanbul")
    drain()

    def give_up(*args: Any, **kwargs: Any) -> None:
        raise SearchTimeout

    monkeypatch.setattr(TantivyView, "find", give_up)
    page = client.get("/search/", {"q": "x"})
    program = client.get("/api/search/", {"q": "x"})
    assert (page.status_code, program.status_code) == (503, 503)
    assert page["Retry-After"] == program["Retry-After"] == "1"


def test_nothing_found_is_said(client: Client, engine: Any) -> None:
    assert "Nothing matches this search." in html(client, q="zzzz")


@pytest.mark.parametrize("path", ["/search/", "/records/1/"])
def test_pages_ask_for_a_login(path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert "/accounts/login/" in response["Location"]


def test_a_record_shows_its_fields_and_where_it_came_from(
    store: Store, client: Client, source: Source
) -> None:
    data = {"name": "İstanbul", "geo": {"lat": 41.01, "tags": ["a", "b"]}, "none": None}
    record = store("İstanbul", data=data, key="745044")
    page = html(client, f"/records/{record.pk}/")
    for piece in ("745044", "geo.lat", "41.01", "geo.tags", "a, b", "Cities"):
        assert piece in page


def test_a_record_of_an_archived_source_is_gone(
    store: Store, client: Client, source: Source
) -> None:
    record = store("x")
    Source.objects.filter(pk=source.pk).update(archived_at=timezone.now())
    html(client, f"/records/{record.pk}/", status=404)


def test_fields_are_flattened() -> None:
    data = {"a": {"b": {"c": {"d": {"e": 1}}}}, "list": [{"x": 1}], "yes": True, "empty": {}}
    assert list(flatten_fields(data)) == [
        ("a.b.c.d", '{"e": 1}'),
        ("list", '[{"x": 1}]'),
        ("yes", "yes"),
        ("empty", "{}"),
    ]
    assert list(flatten_fields("text")) == [("", "text")]


def test_pieces_are_cut_by_code_points() -> None:
    pieces = cut_pieces("🎉 ağaç!", [(2, 6)])
    assert [(piece.text, piece.is_hit) for piece in pieces] == [
        ("🎉 ", False),
        ("ağaç", True),
        ("!", False),
    ]


@pytest.mark.parametrize(
    ("zone", "moment"),
    [
        ("Asia/Tashkent", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("America/New_York", datetime(1, 1, 1, tzinfo=UTC)),
        ("Asia/Tashkent", datetime(2024, 5, 2, 22, tzinfo=UTC)),
    ],
)
def test_times_are_told_in_utc_wherever_the_server_stands(
    store: Store, drain: Drain, settings: Any, zone: str, moment: datetime
) -> None:
    settings.TIME_ZONE = zone
    record = store("boundless", occurred_at=moment)
    drain()
    client = Client()
    client.force_login(User.objects.create_superuser("admin@example.org", "some-password-1"))
    shown = f"{moment:%Y-%m-%d %H:%M:%S}".rjust(19, "0")
    for path in ("/search/?q=boundless", f"/records/{record.pk}/"):
        assert f"{shown}\u00a0UTC" in html(client, path)
    html(client, "/admin/ingest/record/")
    html(client, f"/admin/ingest/record/{record.pk}/change/")
    assert html(client, "/api/search/?q=boundless")
    assert html(client, f"/api/records/{record.pk}/")
    assert html(client, "/api/records/")

"""GET /api/search/: the fixed answer, its errors, and who sees what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from django.utils import timezone

from ingest.models import ErrorLog, Record, Source
from portal.accounts.models import User
from search import services
from search.engines.tantivy import TantivyView
from search.errors import SearchPartial, SearchUnavailable
from tests.search.contract import HOSTILE

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def get(user: User | None, path: str = "/api/search/", **parameters: Any) -> Any:
    client = Client()
    if user:
        client.force_login(user)
    return client.get(path, parameters)


def test_the_answer_has_the_fixed_shape(store: Store, drain: Drain, reader: User) -> None:
    data = {"id": 7, "name": "İstanbul", "nested": {"a": [1, None]}}
    record = store("İstanbul", body="Boğaz <b>", data=data, occurred_at=T0, weight=15e6)
    drain()
    response = get(reader, q="istnbul")
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == [
        *("success", "took_ms", "total", "engine", "coverage", "did_you_mean", "warnings"),
        *("results", "facets", "histogram", "next"),
    ]
    assert (answer["success"], answer["total"], answer["engine"]) == (True, 1, "tantivy")
    assert answer["took_ms"] >= 0
    assert set(answer["coverage"]) == {"as_of", "pending", "parked"}
    assert (answer["coverage"]["pending"], answer["coverage"]["parked"]) == (0, 0)
    assert datetime.fromisoformat(answer["coverage"]["as_of"]).tzinfo
    [hit] = answer["results"]
    assert hit == {
        "id": f"record-{record.pk}",
        "kind": "record",
        "source": "cities",
        "outcome": "delivered",
        "status_code": None,
        "title": "İstanbul",
        "text": "Boğaz <b>",
        "data": data,
        "highlights": {"title": [[0, 8]], "text": []},
        "score": hit["score"],
        "occurred_at": "2026-01-01T00:00:00Z",
        "url": f"/records/{record.pk}/",
    }
    assert hit["score"] > 0
    assert answer["facets"] == {
        "kind": [{"value": "record", "count": 1}],
        "source": [{"value": "cities", "count": 1}],
        "outcome": [{"value": "delivered", "count": 1}],
        "status": [{"value": None, "count": 1}],
    }
    [bucket] = answer["histogram"]
    assert bucket["count"] == 1
    start, end = (datetime.fromisoformat(bucket[name]) for name in ("from", "to"))
    assert start <= T0 < end
    assert answer["next"] is None


def test_the_text_may_stand_in_the_path(store: Store, drain: Drain, reader: User) -> None:
    store("new york/usa")
    drain()
    for text in ("york", "york/usa", "yrok "):
        answer = get(reader, f"/api/search/{quote(text)}/").json()
        assert answer["total"] == 1, text
    by_parameter = get(reader, q="new york").json()
    by_path = get(reader, "/api/search/new%20york/").json()
    assert by_path["results"] == by_parameter["results"]


def test_any_text_may_stand_in_the_path(store: Store, drain: Drain, reader: User) -> None:
    store("50% off/now ..")
    drain()
    for text in ("50%", "off/now", "..", "a\nb", "export", "50%25", "%2F", "?q=off", "#off"):
        by_path = get(reader, f"/api/search/{quote(text, safe='')}/")
        if text == "export":
            assert by_path["Content-Type"].startswith("text/csv")
            continue
        assert by_path.json()["results"] == get(reader, q=text).json()["results"], text


def test_only_the_hits_may_be_asked_for(
    store: Store, drain: Drain, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        store("leaf")
    drain()
    whole = get(reader, q="leaf", size=2).json()

    hits = get(reader, q="leaf", size=2, parts="hits").json()

    assert (hits["facets"], hits["histogram"]) == ({}, [])
    assert list(hits) == list(whole)
    for name in ("total", "results", "next", "warnings", "engine", "success"):
        assert hits[name] == whole[name]
    rest = get(reader, q="leaf", size=2, parts="hits", cursor=whole["next"]).json()
    assert len(rest["results"]) == 1


def test_pages_by_cursor_give_each_hit_once(store: Store, drain: Drain, reader: User) -> None:
    for n in range(25):
        store("equal words", occurred_at=T0 + timedelta(seconds=n // 10))
    drain()
    for sort in ("score", "time", "-time"):
        seen: list[str] = []
        parameters: dict[str, Any] = {"q": "equal", "size": 7, "sort": sort}
        while True:
            answer = get(reader, **parameters).json()
            assert answer["total"] == 25
            seen += [hit["id"] for hit in answer["results"]]
            if answer["next"] is None:
                break
            parameters["cursor"] = answer["next"]
        assert len(seen) == len(set(seen)) == 25


def test_a_cursor_of_another_query_is_refused(store: Store, drain: Drain, reader: User) -> None:
    for _ in range(3):
        store("equal")
    drain()
    cursor = get(reader, q="equal", size=1).json()["next"]
    response = get(reader, q="equal ", size=1, cursor=cursor)
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["cursor"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("q", "x" * 401), ("q", "a\x00b"), ("size", "0"), ("size", "-1"), ("size", "1000000000")),
        *(
            ("sort", "best"),
            ("parts", "facets"),
            ("kind", "x"),
            ("outcome", "x"),
            ("status", "x"),
            ("source", "a/b"),
        ),
        *(("since", "x"), ("until", "2026-99-01"), ("cursor", "x")),
    ],
)
def test_a_wrong_parameter_is_a_400_that_names_it(field: str, value: str, reader: User) -> None:
    response = get(reader, **{field: value})
    body = response.json()
    assert response.status_code == 400
    assert body["success"] is False
    assert set(body) == {"success", "error"}
    assert set(body["error"]) == {"status", "code", "message", "fields"}
    assert (body["error"]["status"], body["error"]["code"]) == (400, "invalid")
    assert list(body["error"]["fields"]) == [field]


def test_five_thousand_characters_in_the_path_are_a_400(reader: User) -> None:
    assert get(reader, f"/api/search/{'x' * 5000}/").status_code == 400


@pytest.mark.parametrize("q", [text for text in HOSTILE if text.isprintable()])
def test_hostile_text_is_answered(
    q: str, store: Store, drain: Drain, reader: User, staff: User
) -> None:
    store("some text")
    drain()
    answer = get(reader, q=q).json()
    assert answer["success"] is True
    assert answer["total"] == sum(b["count"] for b in answer["histogram"])
    assert answer["total"] == sum(f["count"] for f in answer["facets"]["kind"])


def test_unknown_parameters_are_ignored(store: Store, drain: Drain, reader: User) -> None:
    store("x")
    drain()
    assert get(reader, q="x", utm_source="mail", format="csv").json()["total"] == 1


def test_anonymous_is_401(engine: Any) -> None:
    response = get(None, q="x")
    assert response.status_code == 401
    assert response.json()["success"] is False


def test_each_sees_what_the_table_says(
    store: Store, drain: Drain, source: Source, owner: User, reader: User, staff: User
) -> None:
    store("seen by all")
    now = timezone.now()
    ErrorLog.objects.create(error_type="Fetch", message="m", source=source, occurred_at=now)
    ErrorLog.objects.create(error_type="Server", message="m", occurred_at=now)
    drain()

    def kinds(user: User) -> dict[str, int]:
        answer = get(user).json()
        facet = {entry["value"]: entry["count"] for entry in answer["facets"]["kind"]}
        assert sum(facet.values()) == answer["total"] == len(answer["results"])
        assert sum(bucket["count"] for bucket in answer["histogram"]) == answer["total"]
        return facet

    assert kinds(reader) == {"record": 1}
    assert kinds(owner) == {"record": 1, "error": 1}
    assert kinds(staff) == {"record": 1, "error": 2}
    [error] = get(owner, kind="error").json()["results"]
    assert error["title"] == "Fetch"
    assert error["url"] == f"/errors/{error['id'].removeprefix('error-')}/"
    # Ownership counts at the time of the search, not at that of indexing.
    Source.objects.filter(pk=source.pk).update(owner=reader)
    assert kinds(reader) == {"record": 1, "error": 1}
    assert kinds(owner) == {"record": 1}


def test_an_archived_source_is_not_found(
    store: Store, drain: Drain, source: Source, staff: User
) -> None:
    store("old")
    drain()
    Source.objects.filter(pk=source.pk).update(archived_at=timezone.now())
    assert get(staff).json()["total"] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(SearchUnavailable("down"), "search_unavailable"), (SearchPartial(), "search_partial")],
)
def test_a_dead_engine_is_a_503_and_never_an_empty_list(
    error: SearchUnavailable,
    code: str,
    store: Store,
    drain: Drain,
    reader: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store("x")
    drain()

    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(TantivyView, "find", fail)
    response = get(reader, q="x")
    assert response.status_code == 503
    assert int(response["Retry-After"]) >= 1
    assert response.json()["error"]["code"] == code
    assert "results" not in response.json()


def test_a_spent_time_budget_is_a_503(
    store: Store, drain: Drain, reader: User, settings: Any
) -> None:
    store("x")
    drain()
    settings.SEARCH_TIMEOUT_SECONDS = -1.0
    response = get(reader, q="x")
    assert response.status_code == 503
    assert response["Retry-After"]
    assert response.json()["error"]["code"] == "search_timeout"


def test_what_was_found_is_answered_though_no_time_is_left_to_mark_it(
    store: Store, drain: Drain, reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("article", body="an article " * 100)
    drain()
    find_hits = services.find_hits

    def find_late(*given: Any, **options: Any) -> Any:
        found = find_hits(*given, **options)
        given[3]._ends_at = 0
        return found

    monkeypatch.setattr(services, "find_hits", find_late)
    [hit] = get(reader, q="article").json()["results"]
    assert len(hit["text"]) == 240
    assert hit["highlights"] == {"title": [], "text": []}


def test_a_text_without_a_word_finds_nothing_and_exports_nothing(
    store: Store, drain: Drain, reader: User
) -> None:
    store("row")
    drain()
    for q in ("'", "!!!", "(((", "%_%", '""', "-"):
        answer = get(reader, q=q).json()
        assert (answer["total"], answer["results"]) == (0, []), q
        assert answer["warnings"]
        exported = b"".join(get(reader, "/api/search/export/", q=q, format="ndjson"))
        assert b'"rows":0' in exported
    assert get(reader, q="  ").json()["total"] == 1
    assert get(reader, q="kind:record").json()["total"] == 1


def test_nothing_found_tells_what_was_left_out(store: Store, drain: Drain, reader: User) -> None:
    store("new york")
    drain()
    warnings = get(reader, q='new -york -"san marino"').json()["warnings"]
    assert warnings == ["Nothing is left without: york, san marino"]
    assert get(reader, q="new -haven").json()["warnings"] == []


def test_an_index_that_is_gone_is_a_503(store: Store, reader: User, index_dir: Path) -> None:
    store("not indexed yet")
    assert get(reader, q="x").status_code == 503


def test_a_new_portal_answers_with_nothing(reader: User, index_dir: Path) -> None:
    answer = get(reader).json()
    assert (answer["success"], answer["total"], answer["results"]) == (True, 0, [])
    assert answer["facets"] == {"kind": [], "source": [], "outcome": [], "status": []}
    assert services.engine_status()["ok"]


def test_pending_changes_are_told(store: Store, drain: Drain, reader: User) -> None:
    store("visible")
    drain()
    store("not yet")
    answer = get(reader).json()
    assert answer["total"] == 1
    assert answer["coverage"]["pending"] == 1


def test_the_number_of_database_queries_does_not_grow_with_the_hits(
    store: Store, drain: Drain, reader: User, django_assert_max_num_queries: Any
) -> None:
    for n in range(40):
        store(f"row {n}")
    drain()
    client = Client()
    client.force_login(reader)
    with django_assert_max_num_queries(5):
        assert len(client.get("/api/search/?q=row&size=40").json()["results"]) == 40


def test_documents_of_a_facet_sum_up_with_those_without_a_value(
    store: Store, drain: Drain, staff: User
) -> None:
    store("a", status_code=200)
    store("b", status_code=200)
    store("c", status_code=None)
    drain()
    answer = get(staff).json()
    assert answer["facets"]["status"] == [
        {"value": 200, "count": 2},
        {"value": None, "count": 1},
    ]

"""One shape of an error on every address, and one row of the error log for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import URLPattern, URLResolver, get_resolver, path
from django.views.decorators.http import require_POST
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import APIView

from ingest.errors import IngestError
from ingest.models import ErrorLog, Source
from portal import api as portal_api
from portal import urls as portal_urls

REQUEST_ID = re.compile(r"[0-9a-f]{32}")

# A value for each kind of placeholder in the addresses.
EXAMPLES = {"int": "1", "slug": "cities", "str": "text", "path": "some/path", "uuid": "0" * 32}


class Unforeseen(APIView):
    permission_classes = ()

    def get(self, request: Any) -> Response:
        Source.objects.create(slug="half-done", name="x", configuration={})
        raise RuntimeError("secret: hunter2")

    def post(self, request: Any) -> Response:
        return Response({"got": request.data})

    def put(self, request: Any) -> Response:
        raise exceptions.ValidationError(
            {"plan": {"stop": ["Too small."]}, "proxies": [{}, {"http": ["No address."]}]}
        )

    def delete(self, request: Any) -> Response:
        error = IngestError("Run 7 is active.")
        error.status_code, error.code, error.wait_seconds = 409, "run_active", 1.2
        raise error


class Limited(APIView):
    permission_classes = ()

    def get(self, request: Any) -> Response:
        raise exceptions.Throttled(wait=0.2)


@require_POST
def only_post(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("secret: hunter2")


urlpatterns = [
    path("api/unforeseen/", Unforeseen.as_view()),
    path("api/limited/", Limited.as_view()),
    path("api/only-post/", only_post),
    path("only-post/", only_post),
    path("crash/", crash),
    *portal_urls.urlpatterns,
]
handler400, handler403, handler404, handler500 = (
    portal_urls.handler400,
    portal_urls.handler403,
    portal_urls.handler404,
    portal_urls.handler500,
)


@pytest.fixture
def odd_addresses():
    with override_settings(ROOT_URLCONF="tests.portal.test_errors"):
        yield


def assert_shape(response: Any, status: int, code: str | None = None) -> dict[str, Any]:
    assert response.status_code == status
    assert response["Content-Type"].startswith("application/json")
    body: dict[str, Any] = response.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    assert set(body["error"]) == {"status", "code", "message", "fields"}
    assert body["error"]["status"] == status
    assert body["error"]["message"]
    assert isinstance(body["error"]["fields"], dict)
    if code:
        assert body["error"]["code"] == code
    error: dict[str, Any] = body["error"]
    return error


def every_address(patterns: Any = None, prefix: str = "") -> Iterator[str]:
    for entry in get_resolver().url_patterns if patterns is None else patterns:
        text = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from every_address(entry.url_patterns, text)
        elif isinstance(entry, URLPattern):
            text = re.sub(r"<(\w+):\w+>", lambda m: EXAMPLES[m[1]], text)
            text = re.sub(r"<\w+>", "text", text)
            if "(?P" not in text and "^" not in text:
                yield "/" + text


OPEN = {
    "/", "/health", "/health/ready", "/api/schema/", "/api/docs/", "/api/token/",
    "/api/token/refresh/", "/api/token/revoke/", "/i18n/setlang/", "/admin/login/",
    "/favicon.ico", "/robots.txt",
}  # fmt: skip


@pytest.mark.django_db
def test_no_address_lets_a_stranger_in(visitor):
    addresses = list(every_address())
    assert len(addresses) > 30

    for address in addresses:
        response = visitor.get(address)
        if address in OPEN or address.startswith("/accounts/"):
            assert response.status_code != 500, address
        elif address.startswith("/api/"):
            assert_shape(response, 401)
        else:
            assert response.status_code in (302, 401, 404, 405), address
            if response.status_code == 302:
                assert "login" in response["Location"] or address == "/admin/logout/", address


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options", "trace"])
def test_no_method_makes_an_address_of_the_api_break(visitor, signed_in_api, method):
    for address in every_address():
        if address.startswith(("/api/", "/health")):
            for client in (visitor, signed_in_api):
                response = getattr(client, method)(address)
                assert response.status_code < 500, (method, address)
                if response.status_code >= 400:
                    assert_shape(response, response.status_code)


@pytest.mark.django_db
@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b'"x"', b"\xff\xfe", b"[" * 20_000, b"NaN"])
def test_a_body_that_makes_no_sense_is_refused_in_the_shape(signed_in_api, body):
    for address in ("/api/token/", "/api/token/refresh/", "/api/sources/"):
        response = signed_in_api.generic("POST", address, body, content_type="application/json")
        assert_shape(response, 400)


@pytest.mark.django_db
def test_a_content_type_that_nobody_reads_is_415(signed_in_api):
    response = signed_in_api.generic("POST", "/api/sources/", b"a=1", content_type="text/plain")

    assert_shape(response, 415, "unsupported_media_type")


@pytest.mark.django_db
def test_a_body_over_the_limit_is_413_before_it_is_read(signed_in_api, settings):
    settings.MAX_BODY_BYTES = 1000

    response = signed_in_api.post("/api/sources/", {"slug": "x" * 2000})

    assert_shape(response, 413, "body_too_large")


@pytest.mark.django_db
@pytest.mark.parametrize("length", ["-5", "many", "٣"])
def test_a_length_that_is_no_number_is_refused(visitor, length):
    response = visitor.post("/api/token/", b"", "application/json", CONTENT_LENGTH=length)

    assert_shape(response, 400)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "address", ["/api/nope/", "/api/runs/%00/", "/api/sources/a%00b/", "/api/runs/99999999999999/"]
)
def test_an_address_that_is_not_there_is_404_in_the_shape(signed_in_api, address):
    assert_shape(signed_in_api.get(address), 404, "not_found")


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/nope/", "/static/%00", "/%00/", "/sources/a%00b/"])
def test_people_get_a_page_with_the_request_id(browser, address):
    response = browser.get(address)

    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
    assert response["X-Request-ID"] in response.content.decode()


@pytest.mark.django_db
def test_a_browser_that_looks_at_the_api_sees_json(browser):
    response = browser.get("/api/runs/", headers={"Accept": "text/html"})

    assert response.status_code == 200
    assert response.json()["success"] is True


@pytest.mark.django_db
def test_djangos_own_405_has_the_shape_too(visitor, odd_addresses):
    response = visitor.get("/api/only-post/")
    assert_shape(response, 405, "method_not_allowed")
    assert response["Allow"] == "POST"

    page = visitor.get("/only-post/")
    assert page.status_code == 405
    assert page["Allow"] == "POST"
    assert page["X-Request-ID"] in page.content.decode()


@pytest.mark.django_db
def test_an_exception_tells_nothing_about_the_inside(visitor, odd_addresses):
    assert_shape(visitor.get("/api/unforeseen/"), 500, "server_error")
    page = visitor.get("/crash/")
    assert page.status_code == 500
    assert b"hunter2" not in visitor.get("/api/unforeseen/").content + page.content


@pytest.mark.django_db
def test_debug_does_not_change_the_shape(visitor, odd_addresses):
    with override_settings(DEBUG=True):
        assert_shape(visitor.get("/api/unforeseen/"), 500)
        assert_shape(visitor.get("/api/nope/"), 404)


@pytest.mark.django_db
def test_fields_are_dotted_paths(visitor, odd_addresses):
    error = assert_shape(visitor.put("/api/unforeseen/"), 400, "invalid")

    assert error["fields"] == {"plan.stop": ["Too small."], "proxies.1.http": ["No address."]}


@pytest.mark.django_db
def test_errors_of_the_lower_rooms_keep_their_code_and_their_wait(visitor, odd_addresses):
    response = visitor.delete("/api/unforeseen/")

    assert assert_shape(response, 409, "run_active")["message"] == "Run 7 is active."
    assert response["Retry-After"] == "2"


@pytest.mark.django_db
def test_a_wait_is_never_rounded_down_to_nothing(visitor, odd_addresses):
    response = visitor.get("/api/limited/")

    assert_shape(response, 429, "throttled")
    assert response["Retry-After"] == "1"


@pytest.mark.django_db
def test_an_unknown_host_is_refused_in_the_shape(visitor):
    assert_shape(visitor.get("/api/runs/", headers={"Host": "evil.example"}), 400)
    assert visitor.get("/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.django_db
def test_a_form_without_its_token_is_refused_with_a_page(user):
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"username": "x"})

    assert response.status_code == 403
    assert response["X-Request-ID"] in response.content.decode()


class TestTheErrorLog:
    pytestmark = pytest.mark.django_db

    def test_an_answer_of_400_or_more_is_one_row(self, browser, user):
        response = browser.get("/api/nope/?a=1", headers={"X-Request-ID": "from-the-caller.1"})

        row = ErrorLog.objects.get()
        assert (row.error_type, row.status_code, row.message) == ("HTTP Error", 404, "Not Found")
        assert row.path == "/api/nope/?a=1"
        assert row.user == user
        assert row.correlation_id == response["X-Request-ID"] == "from-the-caller.1"

    def test_an_exception_is_one_row_with_its_class_and_trace(self, visitor, odd_addresses):
        visitor.get("/crash/")

        row = ErrorLog.objects.get()
        assert (row.error_type, row.status_code) == ("RuntimeError", 500)
        assert row.message == "secret: hunter2"
        assert "in crash" in row.trace

    def test_an_exception_of_an_endpoint_is_one_row(self, visitor, odd_addresses):
        visitor.get("/api/unforeseen/")

        assert ErrorLog.objects.get().error_type == "RuntimeError"

    def test_a_good_answer_is_none(self, visitor):
        assert visitor.get("/accounts/login/").status_code == 200
        assert not ErrorLog.objects.exists()

    def test_who_called_with_a_token_is_in_the_row(self, api, user):
        token = api.post(
            "/api/token/", {"email": user.email, "password": "a long enough password"}
        ).json()["access"]

        api.get("/api/runs/99999999/", headers={"Authorization": f"Bearer {token}"})

        assert ErrorLog.objects.get().user == user

    def test_secrets_in_the_address_are_not_written_down(self, visitor):
        visitor.get("/api/nope/?api_key=hunter2&token=hunter3&page=2")
        visitor.get("/accounts/reset/MQ/hunter4-token/x/")

        rows = "".join(ErrorLog.objects.values_list("path", flat=True))
        assert "hunter" not in rows
        assert "page=2" in rows

    def test_the_answer_comes_although_the_row_cannot_be_written(self, visitor, monkeypatch):
        def refuse(**kwargs: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("ingest.errorlog.record_server_error", refuse)

        assert_shape(visitor.get("/api/nope/"), 404)


@pytest.mark.django_db(transaction=True)
def test_the_row_stays_when_the_view_rolled_back(visitor, odd_addresses):
    from django.db import transaction

    with override_settings():
        original = Unforeseen.get

        def rolled_back(self: Unforeseen, request: Any) -> Response:
            with transaction.atomic():
                return original(self, request)

        Unforeseen.get = rolled_back  # type: ignore[method-assign]
        try:
            visitor.get("/api/unforeseen/")
        finally:
            Unforeseen.get = original  # type: ignore[method-assign]

    assert not Source.objects.exists()
    assert ErrorLog.objects.get().error_type == "RuntimeError"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "<script>", "é"])
def test_a_request_id_that_is_no_id_is_replaced(offered, visitor):
    given = visitor.get("/health", headers={"X-Request-ID": offered})["X-Request-ID"]

    assert REQUEST_ID.fullmatch(given)


def test_the_schema_names_the_handler_that_gives_the_shape():
    assert settings.REST_FRAMEWORK["EXCEPTION_HANDLER"] == "portal.api.handle_exception"
    assert portal_api.handle_exception(RuntimeError("unforeseen"), {}) is None

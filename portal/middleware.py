"""What happens around every request: its id, its errors, its size.

All of it is synchronous, as the views are (`portal.handler`).
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware

from portal import errors, health
from portal.accounts.lockout import LockedOut
from portal.body_limit import LENGTH, TOO_LARGE
from portal.logs import current_request_id
from portal.throttles import is_flood

logger = logging.getLogger(__name__)

GetResponse = Callable[[HttpRequest], HttpResponseBase]

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_TRACE = 50_000


def request_id(get_response: GetResponse) -> GetResponse:
    """Give the request an id, or take that of the caller; the answer and each log line carry it."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        offered = request.headers.get(REQUEST_ID_HEADER, "")
        chosen = offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        request.request_id = chosen  # type: ignore[attr-defined]
        token = current_request_id.set(chosen)
        try:
            response = get_response(request)
        finally:
            current_request_id.reset(token)
        response.headers[REQUEST_ID_HEADER] = chosen
        return response

    return middleware


def error_capture(get_response: GetResponse) -> GetResponse:
    """Write one row of the error log for each answer >= 400, after the view's transaction.

    Here too every such answer gets its shape: JSON below /api/ and /health, else a plain page.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.status_code >= 400:
            response = errors.shape_response(request, response)
            _record(request, response)
        return response

    return middleware


def body_limit(get_response: GetResponse) -> GetResponse:
    """Refuse a body that is too large before anything reads it, and a path nobody could mean."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        scope: dict[str, Any] = getattr(request, "scope", {})
        announced = request.META.get("CONTENT_LENGTH") or "0"
        if not announced.isascii() or not announced.isdigit():
            return HttpResponse(status=400)
        if int(announced[:18]) > settings.MAX_BODY_BYTES or scope.get(TOO_LARGE):
            return HttpResponse(status=413)
        if length := scope.get(LENGTH):
            request.META["CONTENT_LENGTH"] = str(length)
        if "\0" in request.path_info and not errors.speaks_json(request):
            return HttpResponse(status=404)
        return get_response(request)

    return middleware


def health_checks(get_response: GetResponse) -> GetResponse:
    """Answer health checks whatever the Host header says: a probe knows an address, not a name."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        view = health.find_view(request)
        return view(request) if view else get_response(request)

    return middleware


class LockoutAnswer:
    """Turn a lockout in a login form into its answer (the API has its exception handler)."""

    sync_capable, async_capable = True, False

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, LockedOut):
            return None
        page = errors.render_error_page(request, error.status_code, message=error.message)
        page.headers["Retry-After"] = str(error.retry_after)
        return page


class SlashRedirect(CommonMiddleware):
    """Django's, with 308 for whatever is no GET: after a 301 most clients send a GET, and the list
    that a POST to /api/sources then gets looks like a success."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        answer = super().process_response(request, response)
        if answer.status_code == 301 and request.method not in ("GET", "HEAD"):
            answer.status_code = 308
        return answer


def _remember_exception(sender: Any, request: HttpRequest | None = None, **kwargs: Any) -> None:
    error = sys.exc_info()[1]
    if request is not None and error is not None:
        request.unhandled_error = error  # type: ignore[attr-defined]


got_request_exception.connect(_remember_exception, dispatch_uid="portal.middleware")


def _is_worth_a_row(request: HttpRequest, response: HttpResponseBase) -> bool:
    """All are, but for two (docs/decisions/0080): a probe that finds a portal not ready yet, and
    what somebody unknown goes on causing far beyond the rate at which they may ask at all."""
    if response.status_code == 503 and health.is_probe(request):
        return False
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        return True
    return response.status_code >= 500 or not is_flood(request)


def _record(request: HttpRequest, response: HttpResponseBase) -> None:
    from ingest.errorlog import record_server_error

    error: BaseException | None = getattr(request, "unhandled_error", None)
    user = getattr(request, "user", None)
    try:
        # Reads the session, which may be as far away as the log.
        if not _is_worth_a_row(request, response):
            return
        record_server_error(
            error_type=type(error).__name__ if error else "HTTP Error",
            status_code=500 if error else response.status_code,
            message=str(error) if error else response.reason_phrase,
            path=request.get_full_path(),
            user=user,
            correlation_id=request.request_id,  # type: ignore[attr-defined]
            trace=_format_trace(error) if error else "",
        )
    except Exception:  # the answer is ready; that it could not be noted must not take it away
        logger.exception("An error could not be written to the error log.")


def _format_trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-_MAX_TRACE:]

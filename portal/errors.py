"""The one shape of an error: JSON for programs, a plain page for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

_CODES = {
    400: "bad_request",
    401: "not_authenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "throttled",
    500: "server_error",
    503: "unavailable",
}


def describe_error(
    *, status: int, code: str = "", message: str = "", fields: Mapping[str, list[str]] | None = None
) -> dict[str, Any]:
    """The body of every JSON error."""
    return {
        "success": False,
        "error": {
            "status": status,
            "code": code or _CODES.get(status, "error"),
            "message": message or explain_status(status),
            "fields": dict(fields or {}),
        },
    }


def explain_status(status: int) -> str:
    """A sentence for a person, which tells nothing about the inside."""
    sentences = {
        400: _("The request could not be understood."),
        401: _("Please sign in first."),
        403: _("You are not allowed to do this."),
        404: _("There is nothing at this address."),
        405: _("This address does not answer that kind of request."),
        413: _("What was sent is too large."),
        415: _("The content type is not one that this address reads."),
        429: _("Too many requests. Please wait a little and try again."),
        500: _("Something went wrong on our side. It has been noted."),
        503: _("The service cannot answer at the moment. Please try again soon."),
    }
    if status in sentences:
        return str(sentences[status])
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return str(_("Error"))


def retry_after(wait_seconds: float | None) -> dict[str, str]:
    """The Retry-After header: whole seconds, never rounded down to an early return."""
    if wait_seconds is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(wait_seconds)))}


def speaks_json(request: HttpRequest) -> bool:
    """Whether programs ask at this address."""
    path = request.path_info
    return path in ("/api", "/health") or path.startswith(("/api/", "/health/"))


def shape_response(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The answer itself when it has its shape already; else one of the same status that has."""
    if speaks_json(request):
        if response.headers.get("Content-Type", "").startswith("application/json"):
            return response
        shaped: HttpResponse = JsonResponse(describe_error(status=response.status_code))
    elif not isinstance(response, HttpResponse) or response.content:
        return response
    else:
        shaped = render_error_page(request, response.status_code)
    shaped.status_code = response.status_code
    for name, value in response.headers.items():
        if name.lower() not in ("content-type", "content-length"):
            shaped.headers[name] = value
    shaped.cookies = response.cookies
    return shaped


def render_error_page(request: HttpRequest, status: int, *, message: str = "") -> HttpResponse:
    """A page that needs no database, no session and no user: any of them may be what failed."""
    context = {
        "status": status,
        "message": message or explain_status(status),
        "request_id": getattr(request, "request_id", ""),
    }
    return HttpResponse(render_to_string("portal/error.html", context), status=status)

"""The home page, and the pages that errors show."""

from __future__ import annotations

from typing import Any

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponsePermanentRedirect,
    JsonResponse,
)
from django.shortcuts import render
from django.templatetags.static import static
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from portal import errors
from portal.overview import describe_overview


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Search, the latest runs, and health at a glance; without a login an invitation to sign in."""
    context = describe_overview(request.user) if request.user.is_authenticated else {}
    return render(request, "portal/home.html", context)


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Where browsers look when a page names no icon, which would be an error row each time."""
    return HttpResponsePermanentRedirect(static("portal/favicon.svg"))


@require_safe
def robots(request: HttpRequest) -> HttpResponse:
    """Nothing here is for search engines."""
    return HttpResponse("User-agent: *\nDisallow: /\n", content_type="text/plain")


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _answer(request, 400)


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _answer(request, 403)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _answer(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, 500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _answer(
        request,
        403,
        code="csrf_failed",
        message=_("The form was too old or came from elsewhere. Go back, reload and try again."),
    )


def _answer(request: HttpRequest, status: int, **details: Any) -> HttpResponse:
    if errors.speaks_json(request):
        return JsonResponse(errors.describe_error(status=status, **details), status=status)
    return errors.render_error_page(request, status, message=details.get("message", ""))

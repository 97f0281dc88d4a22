"""Who may open which Dash app, and under which policy its page runs.

django-plotly-dash passes each of its views through `guard` (PLOTLY_DASH["view_decorator"]). Were
that name wrong, it would serve every dashboard to everybody without a word: so the addresses are
built from guarded views only (`analytics/dash_urls.py`), and a system check tells it beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import wraps
from types import MappingProxyType
from typing import Any

from csp.constants import UNSAFE_INLINE
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.csrf import get_token

from analytics.errors import refuse

View = Callable[..., HttpResponseBase]


class Audience(Enum):
    SIGNED_IN = "signed in"
    STAFF = "staff"


# What is not named here is for staff.
AUDIENCES: Mapping[str, Audience] = MappingProxyType(
    {
        "health": Audience.SIGNED_IN,
        "run": Audience.SIGNED_IN,
        "errors": Audience.STAFF,
        "searches": Audience.STAFF,
    }
)

# The one inline script of a Dash page: `var renderer = new DashRenderer();`. A test computes it.
RENDERER_HASH = "'sha256-jZlsGVOhUAIcH+4PVs7QuGZkthRMgvT2n0ilH6/zTM0='"
# Dash's components and plotly.js write <style> elements; a chart saved as an image is a blob.
DASH_POLICY = MappingProxyType(
    {
        "script-src": [RENDERER_HASH],
        "style-src": [UNSAFE_INLINE],
        "img-src": ["blob:"],
    }
)

_PAGE = "main"
_CALLBACK = "update-component"


def guard(view: View, *, name: str, **_kwargs: Any) -> View:
    """The view for those who may see the app `ident`; others are refused before it runs.

    Anonymous: the login page for the app's page, else 401. Signed in, but not for them: 403. An app
    that does not exist looks like one for staff.
    """

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        refusal = _refuse(request, app=str(kwargs.get("ident", "")), is_page=name == _PAGE)
        if refusal is not None:
            return refusal
        if name == _PAGE:
            return _serve_page(view, request, *args, **kwargs)
        if name == _CALLBACK:
            return _serve_callback(view, request, *args, **kwargs)
        return view(request, *args, **kwargs)

    # django-plotly-dash exempts its callbacks; ours send the token.
    guarded.csrf_exempt = False  # type: ignore[attr-defined]
    guarded.is_guarded = True  # type: ignore[attr-defined]
    return guarded


def is_guarded(view: Any) -> bool:
    """Whether `guard` stands in front of this view."""
    return getattr(view, "is_guarded", False) is True


def may_open(user: Any, app: str) -> bool:
    """Whether this signed-in user is in the audience of the app."""
    return AUDIENCES.get(app, Audience.STAFF) is Audience.SIGNED_IN or bool(user.is_staff)


def _refuse(request: HttpRequest, *, app: str, is_page: bool) -> HttpResponseBase | None:
    user = getattr(request, "user", AnonymousUser())
    if not user.is_authenticated:
        return redirect_to_login(request.get_full_path()) if is_page else refuse(401)
    if not may_open(user, app):
        if is_page:
            raise PermissionDenied
        return refuse(403)
    if not _exists(app):
        if is_page:
            raise Http404
        return refuse(404)
    return None


def _exists(app: str) -> bool:
    from django_plotly_dash.dash_wrapper import all_apps

    return app in all_apps()


def _serve_page(view: View, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
    get_token(request)  # sets the cookie that the callbacks read their token from
    response = view(request, *args, **kwargs)
    response._csp_update = dict(DASH_POLICY)  # type: ignore[attr-defined]
    return response


def _serve_callback(
    view: View, request: HttpRequest, *args: Any, **kwargs: Any
) -> HttpResponseBase:
    """Without the write to the session that each callback makes.

    A page left open would else keep its login alive for ever, and write to the database every time.
    """
    was_modified = request.session.modified
    response = view(request, *args, **kwargs)
    request.session.pop("django_plotly_dash", None)
    request.session.modified = was_modified
    return response

"""What every JSON endpoint shares: errors in one shape, tokens, the pages of the schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.contrib.auth import get_user_model
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import exceptions
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.serializers import CharField, Serializer
from rest_framework.views import exception_handler
from rest_framework_simplejwt.exceptions import InvalidToken
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer, TokenRefreshSerializer
from rest_framework_simplejwt.views import (
    TokenBlacklistView,
    TokenObtainPairView,
    TokenRefreshView,
)

from ingest.api_schema import problems
from ingest.errors import IngestError
from portal.accounts.lockout import LockedOut
from portal.errors import describe_error, retry_after
from portal.throttles import wait_after_refusal
from search.errors import SearchError

WHOLE = "non_field_errors"


def handle_exception(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """The answer to any exception of an endpoint; None, an honest 500, for those nobody foresaw."""
    if isinstance(error, IngestError | SearchError | LockedOut):
        return _answer_own(error)
    response = exception_handler(error, dict(context))
    if response is None:
        return None
    if response.status_code == 401 and (wait := wait_after_refusal(context["request"])):
        error = exceptions.Throttled(wait)
        response = exception_handler(error, dict(context)) or response
    for name, value in retry_after(getattr(error, "wait", None)).items():
        response.headers[name] = value
    response.data = _describe(error, response)
    return response


def _answer_own(error: IngestError | SearchError | LockedOut) -> Response:
    body = describe_error(
        status=error.status_code, code=error.code, message=error.message, fields=error.fields
    )
    headers = retry_after(getattr(error, "wait_seconds", None))
    return Response(body, status=error.status_code, headers=headers)


def _describe(error: Exception, response: Response) -> dict[str, Any]:
    status = response.status_code
    if isinstance(error, exceptions.ValidationError):
        fields = dict(_flatten(error.detail))
        alone = fields.get(WHOLE, []) if set(fields) == {WHOLE} else []
        message = " ".join(alone) or str(_("Some values are not valid."))
        return describe_error(status=status, code="invalid", message=message, fields=fields)
    detail = getattr(error, "detail", "")
    if isinstance(detail, Mapping):  # simplejwt: {"detail", "code", "messages"}
        return describe_error(
            status=status, code=str(detail.get("code", "")), message=str(detail.get("detail", ""))
        )
    if isinstance(error, exceptions.APIException):
        code = error.get_codes()
        return describe_error(
            status=status, code=code if isinstance(code, str) else "", message=str(detail)
        )
    return describe_error(status=status)  # Django's Http404 and PermissionDenied


def _flatten(detail: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """A tree of messages as dotted paths: {"plan": {"stop": ["…"]}} → ("plan.stop", ["…"])."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            inner_path = path if name == WHOLE and path else ".".join(filter(None, (path, name)))
            yield from _flatten(inner, inner_path)
        return
    items = detail if isinstance(detail, list) else [detail]
    texts = [str(item) for item in items if not isinstance(item, Mapping | list)]
    if texts:
        yield path or WHOLE, texts
    for index, item in enumerate(items):
        if isinstance(item, Mapping | list):
            yield from _flatten(item, ".".join(filter(None, (path, str(index)))))


class SignInSerializer(TokenObtainPairSerializer):
    """`{email, password}` → `{access, refresh}`; a password is taken as it is, spaces included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"] = CharField(write_only=True, max_length=254)
        self.fields["password"] = CharField(write_only=True, trim_whitespace=False, max_length=4096)


class RefreshSerializer(TokenRefreshSerializer):
    def validate(self, attrs: dict[str, Any]) -> dict[str, str]:
        try:
            fresh: dict[str, str] = super().validate(attrs)
        except get_user_model().DoesNotExist as error:
            raise InvalidToken(_("The account of this token is gone.")) from error
        return fresh


class FreshAccess(Serializer[Any]):
    """What a refresh token is exchanged for (documentation only)."""

    access = CharField()


class TokenPair(FreshAccess):
    """What a sign-in is answered with (documentation only)."""

    refresh = CharField()


@extend_schema(responses={200: TokenPair, **problems(400, 429)})
class TokenView(TokenObtainPairView):
    """Sign in: an access token for requests, and a refresh token for the next access token."""

    serializer_class = SignInSerializer


@extend_schema(responses={200: FreshAccess, **problems(400, 429)})
class RefreshView(TokenRefreshView):
    """A new access token for a refresh token."""

    serializer_class = RefreshSerializer


@extend_schema(responses={200: OpenApiTypes.OBJECT, **problems(400, 429)})
class RevokeView(TokenBlacklistView):
    """Sign out: this refresh token is good for nothing from now on."""


class SchemaView(SpectacularAPIView):
    """The API as OpenAPI 3."""

    permission_classes = (AllowAny,)
    authentication_classes = ()


@method_decorator(
    # Swagger UI writes style attributes; its scripts are files and need no exception.
    csp_update({"style-src": [SELF, UNSAFE_INLINE]}),
    name="dispatch",
)
class DocsView(SpectacularSwaggerSplitView):
    """The API to read and try out, from files of this server."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    url_name = "api-schema"
    http_method_names = ("get", "head")

"""The two shapes of a list: numbered pages with a count, and a cursor for what may be long.

A cursor is the ordering's values of the last row that was sent, so pages neither skip nor repeat
rows that stay where they are, at the same cost on every page. It belongs to one query: with other
filters, another order or another address it is refused instead of answering something else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.core.exceptions import ValidationError as ValueRefused
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.utils.translation import gettext as _
from rest_framework import pagination
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

ModelT = TypeVar("ModelT", bound=Model)
RowT = TypeVar("RowT")

DEFAULT_SIZE = 100
MAX_SIZE = 1000
SIZE_PARAMETER = "size"
CURSOR_PARAMETER = "cursor"


class NumberedPagination(pagination.PageNumberPagination):
    """`{"success": true, "count", "results", "next", "previous"}`; `page` from 1, `size` rows."""

    page_size_query_param = SIZE_PARAMETER
    max_page_size = MAX_SIZE

    def get_page_size(self, request: Request) -> int:
        return read_size(request, default=self.page_size or DEFAULT_SIZE)

    def get_page_number(self, request: Request, paginator: Paginator[Any]) -> int:
        text = request.query_params.get(self.page_query_param, "1")
        if text in self.last_page_strings:
            return paginator.num_pages
        return _read_positive(self.page_query_param, text)

    def get_paginated_response(self, data: Any) -> Response:
        assert self.page is not None  # noqa: S101 - paginate_queryset has set it
        return Response(
            {
                "success": True,
                "count": self.page.paginator.count,
                "results": data,
                "next": self.get_next_link(),
                "previous": self.get_previous_link(),
            }
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return _list_schema(
            {"count": {"type": "integer"}, "results": schema, "next": link, "previous": link}
        )


class CursorPagination(pagination.BasePagination):
    """`{"success": true, "results", "next"}`; `next` is the cursor of the next page, or null.

    The queryset must be ordered by columns that are never null, the last of them unique.
    """

    next_cursor: str | None = None

    def paginate_queryset(
        self,
        queryset: QuerySet[ModelT, RowT],
        request: Request,
        view: APIView | None = None,
    ) -> list[RowT]:
        size = read_size(request)
        ordering = [str(name) for name in queryset.query.order_by or ["pk"]]
        queryset = queryset.order_by(*ordering)
        fingerprint = _fingerprint(request)
        after = request.query_params.get(CURSOR_PARAMETER)
        if after is not None:
            values = _decode(after, fingerprint, queryset.model, ordering)
            queryset = queryset.filter(_beyond(ordering, values))
        rows = list(queryset[: size + 1])
        if len(rows) > size:
            rows.pop()
            self.next_cursor = _encode(fingerprint, rows[-1], ordering)
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"success": True, "results": data, "next": self.next_cursor})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        cursor = {
            "type": "string",
            "nullable": True,
            "description": "Opaque; send it back as `cursor` with otherwise the same parameters.",
        }
        return _list_schema({"results": schema, "next": cursor})

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            {
                "name": CURSOR_PARAMETER,
                "in": "query",
                "required": False,
                "description": "`next` of the previous page.",
                "schema": {"type": "string"},
            },
            {
                "name": SIZE_PARAMETER,
                "in": "query",
                "required": False,
                "description": "Rows per page.",
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_SIZE,
                    "default": DEFAULT_SIZE,
                },
            },
        ]


def read_size(request: Request, *, default: int = DEFAULT_SIZE) -> int:
    """Rows per page that the request asks for, 1..MAX_SIZE; anything else is a 400."""
    text = request.query_params.get(SIZE_PARAMETER)
    if text is None:
        return default
    size = _read_positive(SIZE_PARAMETER, text)
    if size > MAX_SIZE:
        raise ValidationError({SIZE_PARAMETER: [_("At most %d.") % MAX_SIZE]})
    return size


def _read_positive(name: str, text: str) -> int:
    # Nine digits are plenty, and keep the number within every database's integers.
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0:
        return int(text)
    raise ValidationError({name: [_("A whole number from 1 on is needed.")]})


def _list_schema(properties: dict[str, Any]) -> dict[str, Any]:
    properties = {"success": {"type": "boolean"}, **properties}
    return {"type": "object", "required": list(properties), "properties": properties}


def _fingerprint(request: Request) -> str:
    parameters = sorted(
        (name, values)
        for name, values in request.query_params.lists()
        if name not in (CURSOR_PARAMETER, SIZE_PARAMETER)
    )
    text = json.dumps([request.path, parameters])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _encode(fingerprint: str, row: Any, ordering: Sequence[str]) -> str:
    values = [getattr(row, name.lstrip("-")) for name in ordering]
    text = json.dumps(
        [fingerprint, *(v.isoformat() if isinstance(v, datetime) else v for v in values)]
    )
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(
    cursor: str, fingerprint: str, model: type[Model], ordering: Sequence[str]
) -> list[Any]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found, *values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise _refused(_("This is not a cursor that this list has given out.")) from None
    if found != fingerprint:
        raise _refused(_("This cursor belongs to another query: send it with the same parameters."))
    try:
        return [
            _read_value(model, name.lstrip("-"), value)
            for name, value in zip(ordering, values, strict=True)
        ]
    except (ValueRefused, ValueError, TypeError, OverflowError):
        raise _refused(_("This is not a cursor that this list has given out.")) from None


def _read_value(model: type[Model], name: str, value: Any) -> Any:
    field = model._meta.pk if name == "pk" else model._meta.get_field(name)
    python: Any = field.to_python(value)  # type: ignore[union-attr]
    if python is None:
        raise ValueError(name)
    return python


def _refused(message: str) -> ValidationError:
    return ValidationError({CURSOR_PARAMETER: [message]})


def _beyond(ordering: Sequence[str], values: Sequence[Any]) -> Q:
    """Rows after `values` in `ordering`: (a, b, …) > (…), each column in its own direction."""
    names = [name.lstrip("-") for name in ordering]
    steps = ["lt" if name.startswith("-") else "gt" for name in ordering]
    condition = Q()
    for depth, (name, step) in enumerate(zip(names, steps, strict=True)):
        same = Q(**dict(zip(names[:depth], values[:depth], strict=True)))
        condition |= same & Q(**{f"{name}__{step}": values[depth]})
    # Redundant, but it lets the database start at the right place of an index on the first column.
    return Q(**{f"{names[0]}__{steps[0]}e": values[0]}) & condition

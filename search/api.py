"""JSON in and out of a search."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ingest.api_schema import problems
from search.api_schema import SearchAnswer
from search.export import Format, open_export
from search.query import read_member, read_query
from search.services import search

PARAMETERS = [
    OpenApiParameter("q", str, description='Words, "phrases", -not, field:value; ≤ 400 characters'),
    OpenApiParameter("kind", str, description="record, error (comma list)"),
    OpenApiParameter("source", str, description="Slugs (comma list)"),
    OpenApiParameter("outcome", str, description="Outcomes (comma list)"),
    OpenApiParameter("status", str, description="404, 5xx, 500..503 (comma list)"),
    OpenApiParameter("since", str, description="Earliest time; a date is its UTC midnight"),
    OpenApiParameter("until", str, description="First time that is too late"),
    OpenApiParameter("sort", str, enum=["score", "time", "-time"]),
    OpenApiParameter("size", int, description="1 to 100, default 20"),
    OpenApiParameter("cursor", str, description="`next` of the page before"),
    OpenApiParameter(
        "parts",
        str,
        enum=["all", "hits"],
        description="`hits`: facets and histogram stay empty, and cost nothing",
    ),
]


class ExportView(APIView):
    """All hits as a stream that ends with a receipt; without one it is not whole."""

    permission_classes = (IsAuthenticated,)
    throttle_scope = "search"

    @extend_schema(
        parameters=[
            *PARAMETERS[:-2],
            OpenApiParameter("format", str, enum=[*Format], description="default csv"),
        ],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            **problems(400, 503),
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        query = read_query(dict(request.query_params.lists()))
        form = read_member("format", request.query_params.get("format", ""), default=Format.CSV)
        headers = {
            "Content-Disposition": f'attachment; filename="{_name_file(form)}"',
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx shall not keep it back
        }
        export = open_export(query, user=request.user, form=form)
        if request.method == "HEAD":
            export.close()
            return HttpResponse(headers=headers, content_type=form.content_type)
        export.start_job(user=request.user)
        return StreamingHttpResponse(export, headers=headers, content_type=form.content_type)


def _name_file(form: Format) -> str:
    return f"search-{timezone.now():%Y%m%d-%H%M%S}.{form}"


class SearchView(APIView):
    """Search records and errors."""

    permission_classes = (IsAuthenticated,)
    throttle_scope = "search"

    @extend_schema(parameters=PARAMETERS, responses={200: SearchAnswer, **problems(400, 503)})
    def get(self, request: Request, text: str | None = None) -> Response:
        parameters: dict[str, Any] = dict(request.query_params.lists())
        if text is not None:
            parameters["q"] = [text]
        answer = search(read_query(parameters), user=request.user)
        return Response(answer.as_dict(), headers=answer.origin.headers())

"""JSON in and out of a search."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ingest.api_schema import problems
from search.api_schema import SearchAnswer
from search.query import read_query
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
]


class SearchView(APIView):
    """Search records and errors."""

    permission_classes = (IsAuthenticated,)
    throttle_scope = "search"

    @extend_schema(parameters=PARAMETERS, responses={200: SearchAnswer, **problems(400, 503)})
    def get(self, request: Request, text: str | None = None) -> Response:
        parameters: dict[str, Any] = dict(request.query_params.lists())
        if text == "export":
            # The address of exports, which are not built yet: no program may take hits for one.
            raise NotFound
        if text is not None:
            parameters["q"] = [text]
        return Response(search(read_query(parameters), user=request.user).as_dict())

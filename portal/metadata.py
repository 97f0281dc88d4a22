"""The answer to OPTIONS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework.metadata import BaseMetadata
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView  # it imports this module


class PlainMetadata(BaseMetadata):
    """Methods and media types. What the fields are is told by the schema, for every endpoint alike;
    DRF's own answer looks into serializers, and not every endpoint has one with fields."""

    def determine_metadata(self, request: Request, view: APIView) -> dict[str, Any]:
        return {
            "methods": view.allowed_methods,
            "renders": [renderer.media_type for renderer in view.renderer_classes],
            "parses": [parser.media_type for parser in view.parser_classes],
        }

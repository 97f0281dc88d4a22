"""What the API documentation says about a search; the view checks nothing with it.

A test holds real answers against it.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ingest.api_schema import AnyJSON, Vocabulary
from ingest.outcomes import Outcome
from search.query import Kind

_RANGES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
}


@extend_schema_field(_RANGES)
class Ranges(serializers.ListField):
    """Half-open ranges of Unicode code points."""


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "integer"}]})
class TextOrNumber(serializers.Field[Any, Any, Any, Any]):
    """A status code, or the name of something."""


class SearchCoverage(serializers.Serializer[Any]):
    as_of = serializers.DateTimeField(help_text="What was committed before is searchable.")
    pending = serializers.IntegerField(min_value=0, help_text="Changes on their way; 0 = none.")
    parked = serializers.IntegerField(min_value=0, help_text="Documents that cannot be indexed.")


class SearchHighlights(serializers.Serializer[Any]):
    title = Ranges()
    text = Ranges()


class SearchHit(serializers.Serializer[Any]):
    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in Kind])
    source = serializers.CharField(allow_null=True, help_text="Slug.")  # type: ignore[assignment]
    outcome = Vocabulary(Outcome, allow_null=True)
    status_code = serializers.IntegerField(allow_null=True)
    title = serializers.CharField()
    text = serializers.CharField(help_text="≤ 240 characters around the best hit.")
    data = AnyJSON(help_text="The record as delivered.")  # type: ignore[assignment]
    highlights = SearchHighlights()
    score = serializers.FloatField(allow_null=True, help_text="Null when sorted by time.")
    occurred_at = serializers.DateTimeField()
    url = serializers.CharField(help_text="Of its page.")


class SearchFacetValue(serializers.Serializer[Any]):
    value = TextOrNumber(allow_null=True, help_text="Null: documents that have none.")
    count = serializers.IntegerField(min_value=1)


SearchFacets: Any = type(
    "SearchFacets",
    (serializers.Serializer,),
    {
        "__doc__": "Each facet sums to `total`.",
        **{name: SearchFacetValue(many=True) for name in ("kind", "source", "outcome", "status")},
    },
)
SearchBucket: Any = type(
    "SearchBucket",
    (serializers.Serializer,),
    {
        "__doc__": "`from` ≤ occurred_at < `to`.",
        "from": serializers.DateTimeField(),
        "to": serializers.DateTimeField(),
        "count": serializers.IntegerField(min_value=0),
    },
)


class SearchAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    took_ms = serializers.FloatField()
    total = serializers.IntegerField(min_value=0, help_text="Exact.")
    engine = serializers.ChoiceField(choices=["tantivy", "elasticsearch"])
    coverage = SearchCoverage()
    did_you_mean = serializers.CharField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField())
    results = SearchHit(many=True)
    facets = SearchFacets()
    histogram = SearchBucket(many=True, help_text="Sums to `total`.")
    next = serializers.CharField(allow_null=True, help_text="Cursor of the next page.")

"""What the API documentation says about answers and bodies; the views check nothing with it.

Serializers here describe dictionaries that selectors make. A test holds real answers against them.
"""

from __future__ import annotations

from typing import Any

from django.db.models import TextChoices
from drf_spectacular.extensions import (
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ingest.models import JobState
from ingest.outcomes import Outcome, RunState

Schema = dict[str, Any]


class Vocabulary(serializers.ChoiceField):
    """A choice whose values have a name of their own in the schema."""

    def __init__(self, choices: type[TextChoices], **options: Any) -> None:
        self.schema_name = choices.__name__
        super().__init__(choices=choices.choices, **options)


class VocabularyExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    target_class = Vocabulary

    def get_name(self) -> str:
        return str(self.target.schema_name)

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return {"type": "string", "enum": list(self.target.choices)}


class ErrorBody(serializers.Serializer[Any]):
    status = serializers.IntegerField()
    code = serializers.CharField()
    message = serializers.CharField()
    fields = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()),
        help_text="Dotted path of a field or parameter → what is wrong with it.",
    )


class ErrorAnswer(serializers.Serializer[Any]):
    """Every answer ≥ 400 looks like this."""

    success = serializers.BooleanField(default=False)
    error = ErrorBody()


def problems(*statuses: int) -> dict[int, type[ErrorAnswer]]:
    """The error answers of an endpoint, besides the 401 that all of them have."""
    return dict.fromkeys((401, *statuses), ErrorAnswer)


OutcomeCounts: Any = type(
    "OutcomeCounts",
    (serializers.Serializer,),
    {
        "__doc__": "How many requests stand where; all ten outcomes, always.",
        **{outcome.value: serializers.IntegerField(min_value=0) for outcome in Outcome},
    },
)


class RecordCounts(serializers.Serializer[Any]):
    new = serializers.IntegerField(min_value=0)
    changed = serializers.IntegerField(min_value=0)
    unchanged = serializers.IntegerField(min_value=0)


class RunAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    source = serializers.CharField(help_text="Slug.")  # type: ignore[assignment]
    state = Vocabulary(RunState)
    planned = serializers.IntegerField(min_value=0, help_text="Requests that the plan names.")
    outcomes = OutcomeCounts()
    records = RecordCounts()
    started_at = serializers.DateTimeField(allow_null=True, help_text="First request sent.")
    finished_at = serializers.DateTimeField(allow_null=True)
    rate_per_second = serializers.FloatField(allow_null=True)


@extend_schema_field({})
class AnyJSON(serializers.JSONField):
    """Any JSON value: what an upstream has sent."""


class RequestAnswer(serializers.Serializer[Any]):
    """A row of the ledger."""

    key = serializers.CharField()
    url = serializers.CharField(help_text="Redacted.")
    outcome = Vocabulary(Outcome)
    attempts = serializers.IntegerField(min_value=0)
    status_code = serializers.IntegerField(allow_null=True)
    latency_ms = serializers.FloatField(allow_null=True)
    records = serializers.IntegerField(min_value=0)
    error = serializers.CharField(allow_null=True)
    evidence = AnyJSON(allow_null=True, help_text="What was seen: first bytes, violated rule, …")
    finished_at = serializers.DateTimeField(allow_null=True)


class Gap(serializers.Serializer[Any]):
    """A request whose answer is not in the books as it should be."""

    key = serializers.CharField()
    url = serializers.CharField(help_text="Redacted.")
    outcome = Vocabulary(Outcome)
    reason = serializers.CharField()


class DeliveredKey(serializers.Serializer[Any]):
    key = serializers.CharField()


class StoredKey(DeliveredKey):
    id = serializers.CharField(help_text="Of the search document.")


class Verdict(serializers.Serializer[Any]):
    state = Vocabulary(RunState)
    complete = serializers.BooleanField()
    books_balance = serializers.BooleanField()
    stored_all = serializers.BooleanField()
    indexed_all = serializers.BooleanField(allow_null=True)
    text = serializers.CharField()


class ReconciliationAnswer(serializers.Serializer[Any]):
    as_of = serializers.DateTimeField()
    planned = serializers.IntegerField(min_value=0)
    outcomes = OutcomeCounts()
    unknown = serializers.IntegerField(help_text="planned − Σ outcomes; 0 when the books balance.")
    upstream_total = serializers.IntegerField(allow_null=True, help_text="As declared upstream.")
    distinct_keys = serializers.IntegerField(min_value=0)
    duplicates = serializers.IntegerField(min_value=0)
    stored = serializers.IntegerField(min_value=0)
    indexed = serializers.IntegerField(
        allow_null=True, min_value=0, help_text="Null when the search engine cannot be asked."
    )
    missing = Gap(many=True, help_text="Requests that are neither delivered nor accepted.")
    not_stored = DeliveredKey(many=True, help_text="Delivered keys without a row.")
    not_indexed = StoredKey(
        many=True,
        allow_null=True,
        help_text="Stored records that a search does not find; null when nobody can tell.",
    )
    why_ended = serializers.CharField(help_text="Empty while the run goes on.")
    verdict = Verdict()


class RecordAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    source = serializers.CharField(help_text="Slug.")  # type: ignore[assignment]
    key = serializers.CharField()
    title = serializers.CharField()
    text = serializers.CharField()
    data = AnyJSON(help_text="The record as delivered.")  # type: ignore[assignment]
    weight = serializers.FloatField(allow_null=True)
    outcome = Vocabulary(Outcome)
    status_code = serializers.IntegerField(allow_null=True)
    occurred_at = serializers.DateTimeField()
    stored_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ErrorLogAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    error_type = serializers.CharField()
    outcome = Vocabulary(Outcome, allow_null=True, help_text="Of a fetch error.")
    status_code = serializers.IntegerField(allow_null=True)
    message = serializers.CharField()
    url = serializers.CharField(allow_null=True, help_text="Of a fetch error; redacted.")
    path = serializers.CharField(allow_null=True, help_text="Of a server error.")
    source = serializers.CharField(allow_null=True, help_text="Slug.")  # type: ignore[assignment]
    run = serializers.IntegerField(allow_null=True)
    attempt = serializers.IntegerField(allow_null=True)
    request_id = serializers.CharField(
        allow_null=True, help_text="Of a server error: the id that its answer carried."
    )
    user = serializers.IntegerField(allow_null=True, help_text="Of a server error.")
    occurred_at = serializers.DateTimeField()


class JobAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    kind = serializers.CharField()
    user = serializers.IntegerField(allow_null=True, help_text="Who asked for it.")
    run = serializers.IntegerField(allow_null=True)
    state = Vocabulary(JobState)
    progress = serializers.FloatField(min_value=0, max_value=1)
    done = serializers.IntegerField(min_value=0)
    total = serializers.IntegerField(min_value=0)
    message = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


def _closed(properties: Schema, *, required: tuple[str, ...] = ()) -> Schema:
    schema: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    return {**schema, "required": list(required)} if required else schema


def _nullable(schema: Schema) -> Schema:
    return {**schema, "nullable": True}


def _number(default: Any = None, **limits: Any) -> Schema:
    return {"type": "number", "default": default, **limits}


def _whole(default: Any = None, **limits: Any) -> Schema:
    return {"type": "integer", "default": default, **limits}


def _limit(**span: Schema) -> Schema:
    """So many requests in a span of some kind; null is no such limit."""
    requests: Schema = {"type": "integer", "minimum": 1}
    return _nullable(_closed({"requests": requests, **span}, required=("requests", *span)))


_TEXT: Schema = {"type": "string"}
_PATH: Schema = _nullable({"type": "string", "description": "JMESPath.", "default": None})
_SET: Schema = _closed({"set": {"type": "boolean", "enum": [True]}}, required=("set",))
_SECRET: Schema = {
    "oneOf": [_TEXT, _SET],
    "description": 'Write-only: reading shows {"set": true}, and sending that keeps the secret.',
}
_API_KEY = _closed(
    {"in": {"type": "string", "enum": ["header", "query"]}, "name": _TEXT, "secret": _SECRET},
    required=("in", "name", "secret"),
)
_VALUES: Schema = {"type": "object", "additionalProperties": _SECRET, "default": {}}
_REFUSABLE = [o.value for o in Outcome if o not in (Outcome.PLANNED, Outcome.DELIVERED)]

_REQUEST = _closed(
    {
        "url": {"type": "string", "description": "http(s); {name} of the plan is filled in."},
        "method": {
            "type": "string",
            "enum": ["GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "DELETE"],
            "default": "GET",
        },
        "headers": _VALUES,
        "params": {
            **_VALUES,
            "additionalProperties": {"oneOf": [_TEXT, {"type": "number"}, _SET]},
        },
        "timeout_seconds": _number(30),
        "proxies": {
            "type": "array",
            "items": {"oneOf": [_TEXT, _closed({"http": _SECRET, "https": _SECRET})]},
            "default": [],
        },
        "api_key": _nullable({"oneOf": [_API_KEY, {"type": "array", "items": _API_KEY}]}),
    },
    required=("url",),
)
_PLAN: Schema = {
    "oneOf": [
        _closed(
            {
                "type": {"type": "string", "enum": ["range"]},
                "name": _TEXT,
                "start": {"type": "integer"},
                "stop": {"type": "integer", "description": "Inclusive."},
                "step": _whole(1),
            },
            required=("type", "name", "start", "stop"),
        ),
        _closed(
            {
                "type": {"type": "string", "enum": ["values"]},
                "name": _TEXT,
                "values": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"oneOf": [_TEXT, {"type": "number"}]},
                },
            },
            required=("type", "name", "values"),
        ),
    ]
}
SOURCE_CONFIGURATION: Schema = _closed(
    {
        "slug": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
        "name": {"type": "string", "maxLength": 200, "description": "Default: the slug."},
        "request": _REQUEST,
        "plan": _PLAN,
        "records": _closed(
            {
                "path": _PATH,
                "key": {"type": "string", "default": "id"},
                "title": _PATH,
                "body": _nullable({"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}),
                "occurred_at": _PATH,
                "weight": _PATH,
                "schema": {"type": "object", "description": "JSON Schema.", "default": {}},
            }
        ),
        "limits": _closed(
            {
                "per_second": _nullable(_number(5)),
                "concurrency": _whole(5, minimum=1, maximum=1000),
                "window": _limit(
                    seconds={"type": "number", "minimum": 0, "exclusiveMinimum": True}
                ),
                "batch": _limit(
                    pause_seconds={"type": "number", "minimum": 0, "exclusiveMinimum": True}
                ),
                "quota": _limit(per={"type": "string", "enum": ["hour", "day", "month"]}),
                "deadline_seconds": _number(3600),
                "max_body_bytes": _whole(10_000_000, minimum=1),
            }
        ),
        "retry": _closed(
            {
                "attempts": _nullable(_whole(5, minimum=1)),
                "base_seconds": _number(1),
                "cap_seconds": _number(60),
                "sweeps": _whole(1, minimum=0),
                "missing": {"type": "boolean", "default": False},
                "accept": {
                    "type": "array",
                    "items": {"type": "string", "enum": _REFUSABLE},
                    "default": [],
                },
            }
        ),
        "block": _closed(
            {
                "patience": _whole(5, minimum=1),
                "markers": {
                    "type": "array",
                    "items": _TEXT,
                    "default": ["banned", "blocked", "denied"],
                },
                "patience_429": _whole(50, minimum=1),
                "patience_5xx": _whole(50, minimum=1),
            }
        ),
        "schedule": _nullable({"type": "string", "default": None}),
    },
    required=("slug", "request", "plan"),
)
_STORED: Schema = {
    "owner": {"type": "integer", "nullable": True, "readOnly": True},
    "created_at": {"type": "string", "format": "date-time", "readOnly": True},
    "updated_at": {"type": "string", "format": "date-time", "readOnly": True},
}
SOURCE_ANSWER = _closed(
    {**SOURCE_CONFIGURATION["properties"], **_STORED},
    required=(*SOURCE_CONFIGURATION["properties"], *_STORED),
)
SOURCE_PATCH: Schema = {
    "type": "object",
    "additionalProperties": True,
    "description": "JSON merge patch (RFC 7396) of the configuration: null removes a key.",
    "example": {"limits": {"per_second": 2}},
}


class SourceConfigurationExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """A source is shown as its configuration, which no serializer fields describe well."""

    target_class = "ingest.api.SourceSerializer"

    def get_name(self, auto_schema: Any, direction: str) -> str:
        return "Source"

    def map_serializer(self, auto_schema: Any, direction: str) -> Schema:
        return SOURCE_ANSWER

"""Query parameters of the lists: comma lists, status codes, times, orderings.

An unknown parameter is ignored; a value that makes no sense is a 400 that names the parameter.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import django_filters
from django import forms
from django.core.exceptions import ValidationError as ValueRefused
from django.db.models import Model, Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request
from rest_framework.views import APIView

from ingest.models import ErrorLog, Job, JobState, Record, Run
from ingest.models import Request as LedgerRow
from ingest.outcomes import Outcome, RunState

_CODE = re.compile(r"[1-9][0-9]{2}", re.ASCII)
_CLASS = re.compile(r"([1-9])xx", re.ASCII | re.IGNORECASE)
_SPAN = re.compile(r"([1-9][0-9]{2})\.\.([1-9][0-9]{2})", re.ASCII)


class ChoiceListFilter(django_filters.BaseInFilter, django_filters.ChoiceFilter):  # type: ignore[misc]
    """`?outcome=failed,empty`: any of them."""


class TextListFilter(django_filters.BaseInFilter, django_filters.CharFilter):  # type: ignore[misc]
    """`?source=cities,rivers`: any of them."""


class StatusField(forms.CharField):
    """`404`, `5xx`, `500..503`, or a comma list of such."""

    def clean(self, value: Any) -> Q | None:
        text = super().clean(value)
        if not text:
            return None
        condition = Q()
        for part in text.split(","):
            first, last = _read_status(part.strip())
            condition |= Q(status_code__range=(first, last))
        return condition


def _read_status(text: str) -> tuple[int, int]:
    if _CODE.fullmatch(text):
        return int(text), int(text)
    if found := _CLASS.fullmatch(text):
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    if (found := _SPAN.fullmatch(text)) and int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    raise ValueRefused(_("“%s” is neither like 404, nor like 5xx, nor like 500..503.") % text)


@extend_schema_field({"type": "string", "example": "404,5xx,500..503"})
class StatusFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = StatusField

    def filter(self, queryset: QuerySet[Any], value: Q | None) -> QuerySet[Any]:
        return queryset.filter(value) if value else queryset


class InstantField(forms.CharField):
    """ISO 8601; a date is its midnight and a time without zone is meant, in UTC."""

    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        return read_instant(text) if text else None


def read_instant(text: str) -> datetime:
    """The moment that an ISO 8601 date or time names, in UTC. Raises Django's ValidationError."""
    try:
        # In a query string an unescaped + arrives as a space: 2026-01-01T00:00:00 02:00
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueRefused(
            _("“%(text)s” is not an ISO 8601 date or time, such as %(example)s.")
            % {"text": text, "example": f"{date(2026, 1, 31)}T12:00:00Z"}
        ) from None


@extend_schema_field({"type": "string", "example": "2026-01-31T12:00:00Z"})
class InstantFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = InstantField


class PeriodForm(forms.Form):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and since > until:
            raise ValueRefused({"since": _("“since” lies after “until”.")})
        return cleaned


class StrictOrdering(BaseFilterBackend):
    """`?ordering=-occurred_at`: one of the view's `orderings`; ties go by id in the same direction.

    DRF's own OrderingFilter drops what it does not know, and leaves ties to chance.
    """

    parameter = "ordering"

    def filter_queryset(
        self, request: Request, queryset: QuerySet[Any], view: APIView
    ) -> QuerySet[Any]:
        allowed = self._allowed(view)
        chosen = request.query_params.get(self.parameter, allowed[0])
        if chosen not in allowed:
            raise ValidationError(
                {self.parameter: [_("One of %s is needed.") % ", ".join(allowed)]}
            )
        if chosen.lstrip("-") == "id":
            return queryset.order_by(chosen)
        return queryset.order_by(chosen, "-id" if chosen.startswith("-") else "id")

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        allowed = self._allowed(view)
        return [
            {
                "name": self.parameter,
                "in": "query",
                "required": False,
                "description": "Order of the rows; ties go by id.",
                "schema": {"type": "string", "enum": list(allowed), "default": allowed[0]},
            }
        ]

    @staticmethod
    def _allowed(view: APIView) -> tuple[str, ...]:
        orderings: tuple[str, ...] = view.orderings  # type: ignore[attr-defined]
        return orderings


class RunFilter(django_filters.FilterSet):  # type: ignore[misc]
    source = TextListFilter(field_name="source__slug")
    state = ChoiceListFilter(choices=RunState.choices)

    class Meta:
        model: ClassVar[type[Model]] = Run
        fields: ClassVar[list[str]] = ["source", "state"]


class RequestFilter(django_filters.FilterSet):  # type: ignore[misc]
    outcome = ChoiceListFilter(choices=Outcome.choices)
    status = StatusFilter()

    class Meta:
        model: ClassVar[type[Model]] = LedgerRow
        fields: ClassVar[list[str]] = ["outcome", "status"]


class RecordFilter(django_filters.FilterSet):  # type: ignore[misc]
    source = TextListFilter(field_name="source__slug")
    key = django_filters.CharFilter(field_name="key")
    outcome = ChoiceListFilter(choices=Outcome.choices)
    status = StatusFilter()
    since = InstantFilter(field_name="occurred_at", lookup_expr="gte", label=gettext_lazy("since"))
    until = InstantFilter(field_name="occurred_at", lookup_expr="lt", label=gettext_lazy("until"))

    class Meta:
        model: ClassVar[type[Model]] = Record
        form: ClassVar[type[forms.Form]] = PeriodForm
        fields: ClassVar[list[str]] = ["source", "key", "outcome", "status", "since", "until"]


class ErrorFilter(django_filters.FilterSet):  # type: ignore[misc]
    source = TextListFilter(field_name="source__slug")
    run = django_filters.NumberFilter(field_name="run_id", min_value=1, max_value=2**63 - 1)
    error_type = TextListFilter(field_name="error_type")
    outcome = ChoiceListFilter(choices=Outcome.choices)
    status = StatusFilter()
    since = InstantFilter(field_name="occurred_at", lookup_expr="gte", label=gettext_lazy("since"))
    until = InstantFilter(field_name="occurred_at", lookup_expr="lt", label=gettext_lazy("until"))

    class Meta:
        model: ClassVar[type[Model]] = ErrorLog
        form: ClassVar[type[forms.Form]] = PeriodForm
        fields: ClassVar[list[str]] = [
            *("source", "run", "error_type", "outcome", "status", "since", "until"),
        ]


class JobFilter(django_filters.FilterSet):  # type: ignore[misc]
    kind = TextListFilter(field_name="kind")
    state = ChoiceListFilter(choices=JobState.choices)

    class Meta:
        model: ClassVar[type[Model]] = Job
        fields: ClassVar[list[str]] = ["kind", "state"]

"""The pages around the Dash apps."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.mixins import LoginRequiredMixin
from django.urls import reverse
from django.utils import timezone
from django.views.generic import TemplateView

from analytics import figures
from analytics.dashboards import health
from analytics.filters import PRESETS, Filters, read_filters
from ingest.outcomes import Outcome


class HealthView(LoginRequiredMixin, TemplateView):
    """Ingestion health: the Dash app in a frame, and the same numbers as tables."""

    template_name = "analytics/health.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        filters = read_filters(dict(self.request.GET.lists()))
        found = health.read_health(filters, now=timezone.now())
        frame = reverse("the_django_plotly_dash:app-main", kwargs={"ident": health.NAME})
        query = filters.as_query()
        return super().get_context_data(
            **kwargs,
            frame_url=f"{frame}?{query}" if query else frame,
            status=health.describe_status(filters, found),
            totals=found.totals,
            outcomes=[
                {"outcome": Outcome(value), "sends": sends}
                for value, sends in found.totals.outcomes.items()
            ],
            sources=[
                row | {"share_text": figures.describe_share(row)}
                for row in found.completeness.to_dict("records")
            ],
            presets=[{"key": key, "query": Filters(preset=key).as_query()} for key in PRESETS],
        )

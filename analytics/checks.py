"""System checks: that the guard of the dashboards is in place, and their files come from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error
from django.utils.module_loading import import_string

from analytics.access import guard


def check_dashboards(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[Error]:
    """analytics.E001: the guard does not resolve. analytics.E002: files from other hosts."""
    configured: dict[str, Any] = getattr(settings, "PLOTLY_DASH", {})
    found = []
    if _resolve(configured.get("view_decorator", "")) is not guard:
        found.append(
            Error(
                'PLOTLY_DASH["view_decorator"] is not analytics.access.guard.',
                hint="Without it django-plotly-dash shows every dashboard to everybody.",
                id="analytics.E001",
            )
        )
    if configured.get("serve_locally") is not True:
        found.append(
            Error(
                'PLOTLY_DASH["serve_locally"] is not True.',
                hint="Without it the dashboards load their scripts from unpkg.com.",
                id="analytics.E002",
            )
        )
    return found


def _resolve(name: str) -> Any:
    try:
        return import_string(name)
    except ImportError:
        return None

"""The addresses of the Dash apps: those of django-plotly-dash that we use, all of them guarded.

Left out are `add_stateless_apps`, which its decorator does not cover and which writes rows for
anybody, and the `instance/` addresses of apps that people assemble in the admin.
"""

from __future__ import annotations

from importlib import import_module

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern
from django_plotly_dash import urls as dash
from django_plotly_dash.app_name import app_name

from analytics.access import is_guarded
from analytics.dashboards import NAMES

__all__ = ["app_name", "urlpatterns"]

for _name in NAMES:
    import_module(f"analytics.dashboards.{_name}")


def _choose_patterns() -> list[URLPattern]:
    patterns = [
        pattern
        for pattern in dash.urlpatterns
        if (pattern.name or "").startswith("app-") and not pattern.name.endswith("--args")
    ]
    for pattern in patterns:
        if not is_guarded(pattern.callback):
            raise ImproperlyConfigured(
                'PLOTLY_DASH["view_decorator"] must name analytics.access.guard.'
            )
    return patterns


urlpatterns = _choose_patterns()

"""Where static files of Dash are found.

WhiteNoise, serving straight from the finders, asks for lists without patterns to ignore (None), and
django-plotly-dash adds its own patterns to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_plotly_dash import finders


class DashAssetFinder(finders.DashAssetFinder):  # type: ignore[misc]
    def list(self, ignore_patterns: Iterable[str] | None) -> Any:
        return super().list([*(ignore_patterns or ())])


class DashComponentFinder(finders.DashComponentFinder):  # type: ignore[misc]
    def list(self, ignore_patterns: Iterable[str] | None) -> Any:
        return super().list([*(ignore_patterns or ())])


class DashAppDirectoryFinder(finders.DashAppDirectoryFinder):  # type: ignore[misc]
    def list(self, ignore_patterns: Iterable[str] | None) -> Any:
        return super().list([*(ignore_patterns or ())])

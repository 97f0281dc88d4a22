"""A pytest plugin for runs on another database: only tests that use the database are kept."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        uses_database = item.get_closest_marker("django_db") or "db" in fixtures
        (kept if uses_database else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept

"""The search engines. Private to this app: everybody else calls `search.services`."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from search.engines.base import Engine


def get_engine() -> Engine:
    """The engine that the settings ask for; the one place that chooses."""
    if settings.ELASTICSEARCH_URL:
        return _make_elasticsearch(settings.ELASTICSEARCH_URL, settings.ELASTICSEARCH_PREFIX)
    return _make_engine(str(settings.SEARCH_INDEX_DIR))


@cache
def _make_engine(directory: str) -> Engine:
    from pathlib import Path

    from search.engines.tantivy import TantivyEngine

    return TantivyEngine(Path(directory))


@cache
def _make_elasticsearch(url: str, prefix: str) -> Engine:
    from search.engines.elasticsearch import ElasticsearchEngine

    return ElasticsearchEngine(
        settings.ELASTICSEARCH_DSL["default"],
        prefix=prefix,
        index_settings=settings.ELASTICSEARCH_INDEX_SETTINGS,
        open_seconds=settings.SEARCH_TIMEOUT_SECONDS,
    )

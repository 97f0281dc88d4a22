"""What ingestion asks of the rooms above it, without importing them.

The search app registers its answer in `ready()`. Without one (`index_lookup is None`) whatever
depends on it is null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class IndexUnavailable(Exception):
    """The search engine cannot be asked right now."""


class IndexLookup(Protocol):
    def find_absent(self, document_ids: Iterable[str]) -> set[str]:
        """Those of `document_ids` (`record-<pk>`) that a search cannot find at this moment.

        Raises IndexUnavailable.
        """
        ...

    def count_pending(self) -> int:
        """Documents whose last committed change is not searchable yet and will still be tried."""
        ...


_registered: IndexLookup | None = None


def register_index(lookup: IndexLookup) -> None:
    global _registered
    _registered = lookup


def index_lookup() -> IndexLookup | None:
    return _registered

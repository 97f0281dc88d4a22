"""What can go wrong in search, for callers to show.

SearchError
├── InvalidQuery        400, names the parameter that cannot be understood
└── SearchUnavailable   503, the engine cannot answer now; worth another try
    ├── SearchPartial   503, part of the index did not answer
    └── SearchTimeout   503, the time budget of a query is spent

Each carries what an API answer needs: status_code, code, message, fields, wait_seconds. No
exception of an engine's own library leaves `search.engines`.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.utils.translation import gettext as _


class SearchError(Exception):
    status_code = 400
    code = "search_error"
    wait_seconds: float | None = None

    def __init__(self, message: str, fields: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})


class InvalidQuery(SearchError):
    code = "invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", {field: [message]})
        self.field = field


class SearchUnavailable(SearchError):
    """`detail` is for the operator (log); people read `message`.

    `reason` is a sentence that says more to anybody: nothing of the engine's own words, addresses
    or secrets is in it.
    """

    status_code = 503
    code = "search_unavailable"
    wait_seconds = 5.0

    def __init__(self, detail: str = "", *, reason: str = "") -> None:
        super().__init__(f"{self.describe()} {reason}".strip())
        self.detail = detail or self.message
        self.reason = reason

    def describe(self) -> str:
        return _("Search is not reachable at the moment.")


class SearchPartial(SearchUnavailable):
    code = "search_partial"

    def describe(self) -> str:
        return _("Part of the search index did not answer.")


class SearchTimeout(SearchUnavailable):
    code = "search_timeout"
    wait_seconds = 1.0

    def describe(self) -> str:
        return _("The search took too long and was stopped.")

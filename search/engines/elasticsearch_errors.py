"""What Elasticsearch and its client raise, as the errors of this app.

`detail` repeats the server's words for the operator; `reason` is ours and safe to show to anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.utils.translation import gettext as _
from elastic_transport import ConnectionTimeout, TransportError
from elasticsearch import ApiError, UnsupportedProductError

from search.engines.base import IndexMissing
from search.errors import SearchPartial, SearchTimeout, SearchUnavailable

MAX_DETAIL_CHARS = 500
MAJOR = 9

_SHARD_TROUBLES = frozenset(
    {"search_phase_execution_exception", "no_shard_available_action_exception"}
)
_TIMEOUTS = frozenset({"search_timeout_exception", "task_cancelled_exception"})


@contextmanager
def translated(*, but: int | None = None) -> Iterator[None]:
    """Turns whatever the client raises into SearchUnavailable or one of its kinds.

    An answer of the status `but` is raised as it is.
    """
    try:
        yield
    except ConnectionTimeout as error:
        raise SearchTimeout(f"Elasticsearch did not answer in time: {error}") from error
    except TransportError as error:
        raise SearchUnavailable(
            f"Elasticsearch is out of reach: {error}"[:MAX_DETAIL_CHARS],
            reason=_("Its server does not answer."),
        ) from error
    except UnsupportedProductError as error:
        raise _wrong_version(str(error)) from error
    except ApiError as error:
        if error.status_code == but:
            raise
        raise _translate_answer(error) from error


def describe_failure(error: Mapping[str, Any], status: int) -> SearchUnavailable:
    """The trouble that an error object of Elasticsearch tells of."""
    kind, said = str(error.get("type", "")), str(error.get("reason", ""))
    detail = f"Elasticsearch answered {status} {kind}: {said}"[:MAX_DETAIL_CHARS]
    if kind == "index_not_found_exception":
        return IndexMissing(detail, reason=_("Its index is gone and will be filled anew."))
    if kind == "cluster_block_exception" and "read-only" in said:
        return read_only(detail)
    if kind == "strict_dynamic_mapping_exception":
        return changed_by_hand(detail)
    if kind == "media_type_header_exception":
        return _wrong_version(detail)
    if kind == "index_closed_exception":
        return SearchUnavailable(detail, reason=_("Its index is closed."))
    if status in (401, 403):
        return SearchUnavailable(
            detail, reason=_("Its server refuses the portal's user, password or key.")
        )
    if status == 429:
        return SearchUnavailable(detail, reason=_("Its server is overloaded."))
    return SearchUnavailable(detail)


def read_only(detail: str) -> SearchUnavailable:
    return SearchUnavailable(
        detail, reason=_("Its index is read-only, probably because a disk is full.")
    )


def changed_by_hand(detail: str) -> SearchUnavailable:
    return SearchUnavailable(
        detail, reason=_("Its index was changed by hand: run “manage.py rebuild_index”.")
    )


def _wrong_version(detail: str) -> SearchUnavailable:
    return SearchUnavailable(
        detail,
        reason=_("Its server is no Elasticsearch of version %(major)d.") % {"major": MAJOR},
    )


def _translate_answer(answer: ApiError) -> SearchUnavailable:
    body = answer.body
    error = body.get("error") if isinstance(body, dict) else None
    is_stranger = answer.meta.headers.get("x-elastic-product") != "Elasticsearch"
    # Who is not let in is not told what is inside.
    if is_stranger and answer.status_code not in (401, 403):
        return _describe_stranger(answer)
    if not isinstance(error, dict):
        return describe_failure({"type": "error", "reason": error or body}, answer.status_code)
    return describe_failed_search(error, answer.status_code)


def describe_failed_search(error: Mapping[str, Any], status: int) -> SearchUnavailable:
    """The same of a search, of which shards may have failed."""
    kinds = set(_list_kinds(error))
    detail = f"Elasticsearch answered {status} {error.get('type')}: {kinds}"
    if kinds & _TIMEOUTS or "Time exceeded" in str(error):
        return SearchTimeout(detail)
    if error.get("type") in _SHARD_TROUBLES:
        return SearchPartial(detail, reason=_("Shards of its index are out of reach."))
    return describe_failure(error, status)


def _describe_stranger(answer: ApiError) -> SearchUnavailable:
    """Something else answers: a proxy whose server is gone, or not Elasticsearch at all."""
    detail = f"Not Elasticsearch answered, but {answer.status_code}: {answer.body!r}"
    if answer.status_code >= 500:
        return SearchUnavailable(detail[:MAX_DETAIL_CHARS], reason=_("Its server does not answer."))
    return _wrong_version(detail[:MAX_DETAIL_CHARS])


def _list_kinds(error: Mapping[str, Any]) -> Iterator[str]:
    yield str(error.get("type"))
    for cause in error.get("root_cause", []):
        yield str(cause.get("type"))
    for failed in error.get("failed_shards", []):
        yield str(failed.get("reason", {}).get("type"))
    if isinstance(error.get("caused_by"), dict):
        yield from _list_kinds(error["caused_by"])

"""What has changed: how much of it waits for the index, and the tokens that kept answers are held
against."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from django.db import connection
from django.db.models import Min, Q
from django.db.models.aggregates import Count
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ingest.models import ChangeToken, Outbox

# Up to here waiting changes are counted at each call. A storm is counted once a second: ten
# thousand rows take 1 ms, and a search must not pay for how much the index has before it.
COUNTED_ROWS = 1_000
RECOUNT_SECONDS = 1.0

_WAITING = Q(parked_at__isnull=True)
# One statement is one moment. The ORM takes five times as long to write it as SQLite to answer it.
_STATE = """
SELECT waiting.count, waiting.oldest,
    (SELECT COUNT(*) FROM ingest_outbox WHERE parked_at IS NOT NULL),
    (SELECT token FROM ingest_changetoken WHERE name = 'index'),
    (SELECT token FROM ingest_changetoken WHERE name = 'sources')
FROM (
    SELECT COUNT(*) AS count, MIN(queued_at) AS oldest FROM (
        SELECT queued_at FROM ingest_outbox WHERE parked_at IS NULL LIMIT %s
    ) AS counted
) AS waiting
"""


class Token(StrEnum):
    """The names of `ChangeToken`."""

    INDEX = "index"
    SOURCES = "sources"


@dataclass(frozen=True, slots=True)
class State:
    """Where rows and index stand at one moment.

    Every change committed before `as_of` is searchable; `pending` documents will still be tried (0
    is exact at any time, a large number up to a second old), `parked` ones were refused. A token is
    None before the first change.
    """

    as_of: datetime
    pending: int
    parked: int
    index_token: int | None
    sources_token: int | None

    @property
    def rows_stamp(self) -> tuple[int, int] | None:
        """Stands for the records and errors as they are; None while changes of some are pending.

        Whatever changes one makes it pending first, and then renews the token of the index.
        """
        if self.pending or self.index_token is None or self.sources_token is None:
            return None
        return self.index_token, self.sources_token


class _Recount:
    """The waiting changes as they were counted last, in this process."""

    def __init__(self) -> None:
        self._expires_at = 0.0
        self._found: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        if time.monotonic() > self._expires_at:
            self._found = Outbox.objects.filter(_WAITING).aggregate(
                count=Count("pk"), oldest=Min("queued_at")
            )
            self._expires_at = time.monotonic() + RECOUNT_SECONDS
        return self._found


_recount = _Recount()


def read_state() -> State:
    """Read it before searching, so that it never promises more than the answer holds."""
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(_STATE, [COUNTED_ROWS])
        pending, oldest, parked, index_token, sources_token = cursor.fetchone()
    if pending == COUNTED_ROWS:
        # What was searchable up to a second ago still is: an older `as_of` is as true.
        found = _recount.read()
        pending, oldest = max(pending, found["count"]), found["oldest"] or oldest
    return State(
        as_of=_read_time(oldest) or now,
        pending=pending,
        parked=parked,
        index_token=index_token,
        sources_token=sources_token,
    )


def renew_token(name: Token) -> None:
    """Call it in the transaction of the change, or before the change can be seen as done."""
    ChangeToken.objects.bulk_create(
        [ChangeToken(name=name, token=secrets.randbits(63))],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["token"],
    )


def _read_time(value: Any) -> datetime | None:
    if isinstance(value, str):  # SQLite
        value = parse_datetime(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value if isinstance(value, datetime) else None

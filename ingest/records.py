"""A flush's records as DataFrames, and their upsert: new, changed or unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from ingest import bulk
from ingest.fetch.answers import Answer
from ingest.models import Delivery, Record

# As they arrive; `occurred_raw` is what the upstream wrote.
_ARRIVED = [
    "key", "title", "body", "data", "weight", "content_hash", "outcome", "status_code",
    "occurred_raw",
]  # fmt: skip
COLUMNS = ["request_id", "position", *_ARRIVED]
_STORED = (*_ARRIVED[:-1], "occurred_at", "occurred_at_noted")
_DATE = re.compile(r"^\d{4}-?\d{2}-?\d{2}")


@dataclass(frozen=True, slots=True)
class Upserted:
    new: int
    changed: int
    unchanged: int


def frame_of(answers: Iterable[Answer]) -> pd.DataFrame:
    """A row per delivered record of the answers, in order of arrival; `COLUMNS` of object dtype."""
    rows = [
        (
            answer.request_id,
            record.position,
            record.key,
            record.title,
            record.body,
            record.data,
            record.weight,
            record.content_hash,
            answer.verdict.outcome.value,
            answer.status_code,
            record.occurred_at,
        )
        for answer in answers
        for record in answer.verdict.records
    ]
    # object dtype: nothing that came in may be bent by what stands beside it (1 and None → 1.0)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def join_frames(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frame_of([])


def read_time(value: Any) -> datetime | None:
    """An ISO 8601 text as UTC (no zone = UTC), or None where it cannot be read.

    Each value is read by itself: a column's format is never guessed from its first value.
    """
    if not isinstance(value, str) or not _DATE.match(value.strip()):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def upsert_records(
    frame: pd.DataFrame, *, source_id: int, now: datetime, chunk_rows: int
) -> Upserted:
    """Writes the latest version of each key; rows whose content is the same are not touched.

    Call it inside the flush's transaction. Keys are sorted, so that flushes side by side take
    their locks in one order.
    """
    latest = frame.drop_duplicates("key", keep="last").sort_values("key")[_ARRIVED]
    known = _known_rows(source_id, latest["key"].tolist(), chunk_rows)
    new = changed = 0
    written = []
    # Plain tuples from here on: pandas takes longer to make a row of a frame than all of this.
    for *arrived, occurred_raw in latest.to_numpy().tolist():
        key, *_, content_hash, outcome, status_code = arrived
        before = known.get(key)
        if before is None:
            new += 1
        elif before.content_hash != content_hash:
            changed += 1
        elif (before.outcome, before.status_code) == (outcome, status_code):
            continue
        occurred_at, noted = read_time(occurred_raw), ""
        if occurred_at is None:
            noted = "unreadable" if occurred_raw is not None else "not given"
            occurred_at = before.stored_at if before else now
        written.append((*arrived, occurred_at, noted))
    bulk.upsert_rows(
        Record,
        _STORED,
        written,
        shared={"source_id": source_id, "stored_at": now, "updated_at": now},
        unique=("source_id", "key"),
        updated=(*_STORED[1:], "updated_at"),
        chunk_rows=chunk_rows,
    )
    return Upserted(new=new, changed=changed, unchanged=len(latest) - new - changed)


def _known_rows(source_id: int, keys: list[str], chunk_rows: int) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for start in range(0, len(keys), chunk_rows):
        rows = Record.objects.filter(
            source_id=source_id, key__in=keys[start : start + chunk_rows]
        ).values_list("key", "content_hash", "outcome", "status_code", "stored_at", named=True)
        known |= {row.key: row for row in rows}
    return known


def replace_deliveries(
    frame: pd.DataFrame, *, run_id: int, answered_before: Sequence[int], chunk_rows: int
) -> None:
    """Notes which record came from which place of which answer.

    `answered_before` are the requests of this flush that had an answer already: a later answer
    replaces all that an earlier one delivered.
    """
    for start in range(0, len(answered_before), chunk_rows):
        earlier = answered_before[start : start + chunk_rows]
        Delivery.objects.filter(request_id__in=earlier).delete()
    bulk.insert_rows(
        Delivery,
        ("request_id", "position", "record_key", "content_hash"),
        frame[["request_id", "position", "key", "content_hash"]].to_numpy().tolist(),
        shared={"run_id": run_id},
        chunk_rows=chunk_rows,
    )

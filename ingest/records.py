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

COLUMNS = [
    "request_id", "run_id", "position", "key", "title", "body", "data", "weight", "occurred_raw",
    "content_hash", "outcome", "status_code",
]  # fmt: skip
_UPDATED = [
    "title", "body", "data", "weight", "occurred_at", "occurred_at_noted", "content_hash",
    "outcome", "status_code", "updated_at",
]  # fmt: skip
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
            answer.run_id,
            record.position,
            record.key,
            record.title,
            record.body,
            record.data,
            record.weight,
            record.occurred_at,
            record.content_hash,
            answer.verdict.outcome.value,
            answer.status_code,
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
    latest = frame.drop_duplicates("key", keep="last").sort_values("key")
    if latest.empty:
        return Upserted(0, 0, 0)
    known = _known_rows(source_id, latest["key"].tolist(), chunk_rows)
    is_new = ~latest["key"].isin(list(known))
    hashes = latest["key"].map({key: row["content_hash"] for key, row in known.items()})
    is_changed = ~is_new & (hashes != latest["content_hash"])
    states = latest["key"].map(
        {key: (row["outcome"], row["status_code"]) for key, row in known.items()}
    )
    is_moved = ~is_new & pd.Series(
        [
            state != (outcome, status)
            for state, outcome, status in zip(
                states, latest["outcome"], latest["status_code"], strict=True
            )
        ],
        index=latest.index,
    )
    written = latest[is_new | is_changed | is_moved]
    records = [
        _record(row, source_id=source_id, known=known.get(row.key), now=now)
        for row in _rows(written)
    ]
    Record.objects.bulk_create(
        records,
        batch_size=chunk_rows,
        update_conflicts=True,
        unique_fields=["source", "key"],
        update_fields=_UPDATED,
    )
    new, changed = int(is_new.sum()), int(is_changed.sum())
    return Upserted(new=new, changed=changed, unchanged=len(latest) - new - changed)


def _rows(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples(index=False)


def _known_rows(source_id: int, keys: list[str], chunk_rows: int) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for start in range(0, len(keys), chunk_rows):
        rows = Record.objects.filter(
            source_id=source_id, key__in=keys[start : start + chunk_rows]
        ).values("key", "content_hash", "outcome", "status_code", "stored_at")
        known |= {row["key"]: dict(row) for row in rows}
    return known


def _record(row: Any, *, source_id: int, known: dict[str, Any] | None, now: datetime) -> Record:
    occurred_at = read_time(row.occurred_raw)
    noted = ""
    if occurred_at is None:
        noted = "unreadable" if row.occurred_raw is not None else "not given"
        occurred_at = known["stored_at"] if known else now
    return Record(
        source_id=source_id,
        key=row.key,
        title=row.title,
        body=row.body,
        data=row.data,
        weight=row.weight,
        occurred_at=occurred_at,
        occurred_at_noted=noted,
        content_hash=row.content_hash,
        outcome=row.outcome,
        status_code=row.status_code,
        stored_at=now,
        updated_at=now,
    )


def replace_deliveries(
    frame: pd.DataFrame, *, answered_before: Sequence[int], chunk_rows: int
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
        ("request_id", "run_id", "position", "record_key", "content_hash"),
        frame[["request_id", "run_id", "position", "key", "content_hash"]].itertuples(
            index=False, name=None
        ),
    )

"""Roll-ups: per run, minute and outcome, how many sends there were and how long they took.

Written in the flush's own transaction, so that they always agree with the ledger; charts read them
and never the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import connection

from ingest.fetch.answers import Answer

# Django's upserts cannot add to what is there; both databases understand this.
_ADD = """
INSERT INTO ingest_bucket
    (source_id, run_id, started_at, outcome, sends, records, latency_ms_sum, latency_ms_max)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (run_id, started_at, outcome) DO UPDATE SET
    sends = ingest_bucket.sends + excluded.sends,
    records = ingest_bucket.records + excluded.records,
    latency_ms_sum = ingest_bucket.latency_ms_sum + excluded.latency_ms_sum,
    latency_ms_max = CASE WHEN ingest_bucket.latency_ms_max > excluded.latency_ms_max
                          THEN ingest_bucket.latency_ms_max ELSE excluded.latency_ms_max END
"""


def add_to_buckets(answers: Sequence[Answer], *, source_id: int) -> None:
    """Adds a flush's answers to the buckets. Call it inside the flush's transaction."""
    sums: dict[tuple[int, datetime, str], list[float]] = {}
    for answer in answers:
        minute = answer.answered_at.replace(second=0, microsecond=0)
        entry = sums.setdefault(
            (answer.run_id, minute, answer.verdict.outcome.value), [0, 0, 0.0, 0.0]
        )
        entry[0] += 1
        entry[1] += len(answer.verdict.records)
        entry[2] += answer.latency_ms
        entry[3] = max(entry[3], answer.latency_ms)
    with connection.cursor() as cursor:
        for (run_id, minute, outcome), (sends, records, total, longest) in sorted(sums.items()):
            stamp = connection.ops.adapt_datetimefield_value(minute)
            cursor.execute(
                _ADD,
                [source_id, run_id, stamp, outcome, int(sends), int(records), total, longest],
            )

"""Roll-ups as the flush writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ingest.models import Bucket, Run
from ingest.outcomes import Outcome


def add_bucket(
    run: Run,
    started_at: datetime,
    *,
    outcome: str = Outcome.DELIVERED,
    sends: int = 1,
    **fields: Any,
) -> Bucket:
    """A minute of a run: each send brought one record in 100 ms, unless said otherwise."""
    return Bucket.objects.create(
        run=run,
        source=run.source,
        started_at=started_at,
        outcome=outcome,
        sends=sends,
        records=fields.pop("records", sends),
        latency_ms_sum=fields.pop("latency_ms_sum", 100.0 * sends),
        latency_ms_max=fields.pop("latency_ms_max", 100.0),
        **fields,
    )

"""The hour tier of the roll-ups."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from ingest.outcomes import Outcome


class HourBucket(models.Model):
    """Roll-up of one hour of a source: the sum of its minute buckets.

    Written by database triggers on `ingest_bucket` only (`analytics/hours.py`), in the transaction
    of the flush. `source_id` is no foreign key: the rows go when the minutes go, however those are
    deleted. `latency_ms_max` does not fall when some of the hour's minutes are deleted.
    """

    source_id = models.BigIntegerField()
    started_at = models.DateTimeField()
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    sends = models.BigIntegerField()
    records = models.BigIntegerField()
    latency_ms_sum = models.FloatField()
    latency_ms_max = models.FloatField()
    first_run_id = models.BigIntegerField()
    last_run_id = models.BigIntegerField()

    class Meta:
        verbose_name = _("hour of a source")
        verbose_name_plural = _("hours of sources")
        constraints = [
            models.UniqueConstraint(
                name="hour_bucket_once", fields=["started_at", "source_id", "outcome"]
            )
        ]

    def __str__(self) -> str:
        return f"{self.source_id} {self.started_at:%Y-%m-%d %H} h {self.outcome}"

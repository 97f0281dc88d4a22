"""Adds up the minutes that were there before the hours were."""

from typing import Any

from django.db import migrations, models
from django.db.models.functions import TruncHour

_CHUNK = 2_000


def fill_hours(apps: Any, schema_editor: Any) -> None:
    bucket = apps.get_model("ingest", "Bucket")
    hour_bucket = apps.get_model("analytics", "HourBucket")
    hours = (
        bucket.objects.using(schema_editor.connection.alias)
        .values("source_id", "outcome", hour=TruncHour("started_at"))
        .annotate(
            total=models.Sum("sends"),
            found=models.Sum("records"),
            spent=models.Sum("latency_ms_sum"),
            longest=models.Max("latency_ms_max"),
            first=models.Min("run_id"),
            last=models.Max("run_id"),
        )
        .order_by()
    )
    hour_bucket.objects.using(schema_editor.connection.alias).bulk_create(
        (
            hour_bucket(
                source_id=row["source_id"],
                started_at=row["hour"],
                outcome=row["outcome"],
                sends=row["total"],
                records=row["found"],
                latency_ms_sum=row["spent"],
                latency_ms_max=row["longest"],
                first_run_id=row["first"],
                last_run_id=row["last"],
            )
            for row in hours.iterator(chunk_size=_CHUNK)
        ),
        batch_size=500,
    )


class Migration(migrations.Migration):
    dependencies = [("analytics", "0001_initial"), ("ingest", "0001_initial")]

    operations = [migrations.RunPython(fill_hours, migrations.RunPython.noop)]

"""Drops indexes whose columns stand first in another one, and orders the one that claims read.

Each index costs a part of every flush; with `position` in it, and without the rows that a slice
holds, a claim no longer sorts all rows that are due.
"""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ingest", "0003_change_tokens")]

    operations = [
        migrations.RemoveIndex(model_name="request", name="request_due"),
        migrations.AlterField(
            model_name="delivery",
            name="request",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="deliveries",
                to="ingest.request",
            ),
        ),
        migrations.AlterField(
            model_name="delivery",
            name="run",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="deliveries",
                to="ingest.run",
            ),
        ),
        migrations.AlterField(
            model_name="errorlog",
            name="request",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="errors",
                to="ingest.request",
            ),
        ),
        migrations.AlterField(
            model_name="record",
            name="source",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="records",
                to="ingest.source",
            ),
        ),
        migrations.AlterField(
            model_name="request",
            name="run",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="requests",
                to="ingest.run",
            ),
        ),
        migrations.AlterField(
            model_name="request",
            name="slice",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="requests",
                to="ingest.slice",
            ),
        ),
        migrations.AddIndex(
            model_name="request",
            index=models.Index(
                name="request_claimable",
                fields=["run", "due_at", "position"],
                condition=models.Q(("due_at__isnull", False), ("slice__isnull", True)),
            ),
        ),
        migrations.AddIndex(
            model_name="request",
            index=models.Index(
                name="request_held",
                fields=["slice"],
                condition=models.Q(("slice__isnull", False)),
            ),
        ),
    ]

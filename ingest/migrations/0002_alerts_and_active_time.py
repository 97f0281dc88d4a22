from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ingest", "0001_initial")]

    operations = [
        migrations.AlterModelOptions(
            name="runevent",
            options={
                "ordering": ["run_id", "seq"],
                "verbose_name": "run event",
                "verbose_name_plural": "run events",
            },
        ),
        migrations.AddField(
            model_name="run",
            name="active_seconds",
            field=models.FloatField(default=0.0),
        ),
        migrations.AddField(
            model_name="run",
            name="resumed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="runevent",
            name="details",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="runevent",
            name="kind",
            field=models.CharField(
                choices=[("progress", "progress"), ("step", "step"), ("alert", "alert")],
                default="progress",
                editable=False,
                max_length=16,
            ),
        ),
        migrations.AddIndex(
            model_name="runevent",
            index=models.Index(
                condition=models.Q(("kind", "alert")),
                fields=["created_at"],
                name="run_event_alert",
            ),
        ),
    ]

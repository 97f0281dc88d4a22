from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ingest", "0004_fewer_indexes")]

    operations = [
        migrations.CreateModel(
            name="HostUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("origin", models.CharField(max_length=300, unique=True)),
                ("used_until", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="QuotaUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("origin", models.CharField(max_length=300)),
                ("period", models.CharField(max_length=20)),
                ("granted", models.PositiveBigIntegerField()),
            ],
        ),
        migrations.AddConstraint(
            model_name="quotause",
            constraint=models.UniqueConstraint(
                fields=("origin", "period"), name="quota_once_per_period"
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="wake_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="run",
            name="waits_for",
            field=models.CharField(
                blank=True,
                choices=[
                    ("rate", "the limit per second"),
                    ("window", "the window of requests"),
                    ("batch", "the pause after a batch"),
                    ("quota", "the quota's next period"),
                    ("hold", "the delay that the host has asked for"),
                ],
                max_length=16,
            ),
        ),
    ]

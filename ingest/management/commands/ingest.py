"""`manage.py ingest SLUG`: start a run of a source and follow it to its report."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ingest import selectors, services
from ingest.errors import IngestError, RunActive
from ingest.models import Run
from ingest.outcomes import RunState
from ingest.reconcile import reconcile_run
from ingest.reports import follow_run, write_report


class Command(BaseCommand):
    help = (
        "Start a run of the source, show its progress and end with the reconciliation. "
        "The fetch workers do the work; while none is up, the run waits."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", help="slug of the source")
        parser.add_argument(
            "--attach", action="store_true", help="follow the active run, where there is one"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        source = selectors.present_sources().filter(slug=options["slug"]).first()
        if source is None:
            raise CommandError(f"There is no source {options['slug']!r}.")
        try:
            run = services.start_run(source=source, user=source.owner)
        except RunActive as error:
            if not options["attach"]:
                raise CommandError(f"{error.message} --attach follows it.") from error
            run = Run.objects.get(pk=error.run_id)
        except IngestError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"Run {run.pk}: {run.planned_total:,} requests to {source.slug}")
        try:
            follow_run(run, say=self.stdout.write)
        except KeyboardInterrupt:
            raise CommandError(
                f"Stopped watching; run {run.pk} goes on. `manage.py reconcile {run.pk}` reports.",
                returncode=130,
            ) from None
        for line in write_report(run, reconcile_run(run)):
            self.stdout.write(line)
        if run.state != RunState.COMPLETE:
            raise CommandError(f"Run {run.pk} is {run.state}.")

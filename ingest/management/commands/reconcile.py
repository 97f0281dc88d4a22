"""`manage.py reconcile RUN`: compare plan, ledger, records and index of a run."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from ingest.models import Run
from ingest.reconcile import reconcile_run
from ingest.reports import write_report


class Command(BaseCommand):
    help = (
        "Report what became of each request of a run. Ends with 1 where the books do not balance."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", type=int, help="number of the run")
        parser.add_argument("--json", action="store_true", help="the whole report as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        run = Run.objects.select_related("source").filter(pk=options["run"]).first()
        if run is None:
            raise CommandError(f"There is no run {options['run']}.")
        report = reconcile_run(run)
        if options["json"]:
            self.stdout.write(json.dumps(report.as_dict(), cls=DjangoJSONEncoder, indent=2))
        else:
            for line in write_report(run, report):
                self.stdout.write(line)
        if not report.verdict["books_balance"]:
            raise CommandError("The books do not balance.")

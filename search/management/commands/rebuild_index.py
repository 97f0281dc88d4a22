"""manage.py rebuild_index: fill the search index anew from the database."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from search.errors import SearchUnavailable
from search.indexer import read_coverage
from search.rebuild import RebuildRefused, request_rebuild, work_on_job


class Command(BaseCommand):
    help = "Fill the search index anew from the database, beside the one that answers."

    def handle(self, *args: Any, **options: Any) -> None:
        job = request_rebuild()
        try:
            with tqdm(unit="doc", file=sys.stderr, disable=None) as bar:
                report = work_on_job(job.pk, report_progress=lambda *step: _advance(bar, *step))
        except (RebuildRefused, SearchUnavailable) as error:
            reason = getattr(error, "detail", str(error))
            raise CommandError(f"Not rebuilt, the old index goes on answering: {reason}") from error
        coverage = read_coverage()
        self.stdout.write(f"The index was rebuilt: {report}")
        self.stdout.write(f"Pending: {coverage.pending}. Parked: {coverage.parked}.")


def _advance(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)

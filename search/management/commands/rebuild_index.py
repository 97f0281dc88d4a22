"""manage.py rebuild_index: fill the search index anew from the database."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from ingest.models import Job, JobState
from search.errors import SearchUnavailable
from search.indexer import read_coverage
from search.rebuild import RebuildRefused, rebuild_index


class Command(BaseCommand):
    help = "Fill the search index anew from the database, beside the one that answers."

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        job = Job.objects.create(kind="rebuild", state=JobState.RUNNING, started_at=now)
        try:
            with tqdm(unit="doc", file=sys.stderr, disable=None) as bar:
                report = rebuild_index(report_progress=lambda *step: _advance(job, bar, *step))
        except (RebuildRefused, SearchUnavailable) as error:
            reason = getattr(error, "detail", str(error))
            _finish(job, JobState.FAILED, reason)
            raise CommandError(f"Not rebuilt, the old index goes on answering: {reason}") from error
        except BaseException as error:
            _finish(job, JobState.FAILED, type(error).__name__)
            raise
        text = f"{report.documents} documents in {report.seconds} s, {report.refused} refused."
        _finish(job, JobState.FINISHED, text)
        coverage = read_coverage()
        self.stdout.write(f"The index was rebuilt: {text}")
        self.stdout.write(f"Pending: {coverage.pending}. Parked: {coverage.parked}.")


def _advance(job: Job, bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
    Job.objects.filter(pk=job.pk).update(done=done, total=total)


def _finish(job: Job, state: JobState, message: str) -> None:
    Job.objects.filter(pk=job.pk).update(state=state, message=message, finished_at=timezone.now())

"""Builds the index anew from the database, beside the one that answers.

The process that rebuilds holds the drainer's lock and is the drainer meanwhile: between two parts
of the fresh index it applies what waits in the outbox to both indexes. So new rows stay searchable,
and one process alone reads rows and writes them: what either index got last of a document is what
was read last, and a change after that is still noted in the outbox. Where neither holds, the fresh
index differs from the database without a note, and that is what is looked for before the switch.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import Model
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ingest.changes import Token, renew_token
from ingest.eager import begin_eagerly
from ingest.models import ErrorLog, Job, JobState, Outbox, Record
from ingest.outbox import try_parked_again
from search import indexer
from search.documents import Document, name_document, read_sound_documents, split_name
from search.engines import get_engine
from search.engines.base import Applied, IndexMissing, Rebuild, View
from search.errors import SearchUnavailable
from search.lock import HeldLock, hold_drainer_lock, hold_rebuild_lock
from search.query import Kind

logger = logging.getLogger(__name__)

JOB_KIND = "rebuild"
LOCK_WAIT_SECONDS = 60
# Others hold the lock for a moment, to see whether a rebuild lives.
RIVAL_WAIT_SECONDS = 2
PROGRESS_SECONDS = 0.5
FILL_ROWS = 2_000
# So many documents are compared with the database by their content; where there are fewer, all.
COMPARED_DOCUMENTS = 20_000
_COMPARED_AT_ONCE = 1_000
# What is written faster than it can be drained must not keep a rebuild from its end.
CATCH_UP_SECONDS = 120.0
# How long to leave an index that cannot take changes now alone.
LIVE_PAUSE_SECONDS = 30.0
# A request for a rebuild whose message was lost is taken up after this time.
ABANDONED_SECONDS = 10
_TABLES: tuple[tuple[Kind, type[Model]], ...] = ((Kind.RECORD, Record), (Kind.ERROR, ErrorLog))

Progress = Callable[[int, int], None]


class RebuildRefused(Exception):
    """The fresh index is not what the database holds, or the rebuild was disturbed; no switch."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """`compared` documents were compared by content, all by number."""

    documents: int
    refused: int
    compared: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.documents} documents in {self.seconds} s, {self.refused} refused, "
            f"{self.compared} compared with the database."
        )


def rebuild_index(
    *,
    on_start: Callable[[], None] = lambda: None,
    report_progress: Progress = lambda done, total: None,
) -> RebuildReport:
    """Fills a fresh index with every record and error, compares it, and switches to it.

    `on_start()` is called when this is the one rebuild, `report_progress(done, total)` after each
    part. Raises RebuildRefused (the old index goes on answering) or SearchUnavailable.
    """
    started_at = time.monotonic()
    with _hold(hold_rebuild_lock(wait_seconds=RIVAL_WAIT_SECONDS), _describe_rival):
        _end_dead_jobs()
        on_start()
        # What was replaced is removed at the very end, while the drainer goes on again. But the
        # fresh index is made under the lock: a drainer removes what nobody seems to use.
        with (
            ExitStack() as afterwards,
            _hold(
                hold_drainer_lock(wait_seconds=LOCK_WAIT_SECONDS),
                lambda: "Another process is writing the index.",
            ) as lock,
        ):
            rebuild = afterwards.enter_context(get_engine().start_rebuild())
            builder = _Builder(rebuild, lock, report_progress)
            # Also what was parked gets another chance.
            try_parked_again(Outbox.objects.all())
            builder.fill()
            builder.catch_up()
            compared = builder.compare_contents()
            documents = builder.compare_numbers()
            builder.switch()
    return RebuildReport(
        documents=documents,
        refused=builder.refused,
        compared=compared,
        seconds=round(time.monotonic() - started_at, 1),
    )


@contextmanager
def _hold(
    taking: AbstractContextManager[HeldLock | None], describe_rival: Callable[[], str]
) -> Iterator[HeldLock | None]:
    try:
        lock = taking.__enter__()
    except RedisConnectionError:
        # Without Redis no worker runs, so nobody else writes the index.
        logger.warning("Redis is out of reach: rebuilding without a lock.")
        yield None
        return
    try:
        if lock is None:
            raise RebuildRefused(describe_rival())
        yield lock
    finally:
        taking.__exit__(None, None, None)


class _LiveDown(SearchUnavailable):
    """The index that answers takes no changes now; that of the rebuild may."""


class _LiveIndex:
    """The index that answers, as far as there is one."""

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied:
        try:
            return get_engine().apply(upserts=upserts, deletes=deletes)
        except IndexMissing:
            # Should the rebuild fail, the drainer makes one and queues every row for it.
            return Applied()
        except SearchUnavailable as error:
            raise _LiveDown(error.detail) from error


class _Builder:
    def __init__(self, rebuild: Rebuild, lock: HeldLock | None, report_progress: Progress) -> None:
        self._rebuild = rebuild
        self._lock = lock
        self._report_progress = report_progress
        self._live_rests_until = 0.0
        self.refused = 0

    def fill(self) -> None:
        """Gives every row that is there to the fresh index."""
        total = sum(table._default_manager.count() for _, table in _TABLES)
        done = 0
        for kind, table in _TABLES:
            for pks in indexer.walk_keys(table, part_rows=FILL_ROWS):
                refused: dict[str, str] = {}
                applied = self._rebuild.apply(
                    upserts=read_sound_documents(kind, pks, refused=refused)
                )
                refused |= applied.rejected
                # The drainer will try them again, and park them with the reason.
                indexer.queue_changes(split_name(name) for name in refused)
                self.refused += len(refused)
                done += len(pks)
                self._drain()
                self._report_progress(done, max(total, done))

    def catch_up(self) -> None:
        """Drains until next to nothing waits."""
        gives_up_at = time.monotonic() + CATCH_UP_SECONDS
        while self._drain() == indexer.BATCH_ROWS and time.monotonic() < gives_up_at:
            pass

    def _drain(self) -> int:
        """Applies a batch of changes to both indexes; says how many it took."""
        self._keep_lock()
        if time.monotonic() < self._live_rests_until:
            return 0
        try:
            return indexer.drain_batch(targets=[_LiveIndex(), self._rebuild])
        except _LiveDown as error:
            # The notes stay; whatever index answers afterwards gets them.
            logger.warning("The index that answers takes no changes: %s", error.detail)
            self._live_rests_until = time.monotonic() + LIVE_PAUSE_SECONDS
            return 0

    def _keep_lock(self) -> None:
        if self._lock is not None and not self._lock.renew():
            raise RebuildRefused("The lock was lost: another process is writing the index.")

    def compare_contents(self) -> int:
        """Compares documents with their rows; says how many. Raises RebuildRefused.

        Rows are read first, then their notes: a row that changed after it was drained has one.
        """
        compared = 0
        for kind, table in _TABLES:
            for pks in _sample(table, COMPARED_DOCUMENTS // len(_TABLES)):
                # A row of which no document can be made has a note.
                sound = read_sound_documents(kind, pks, refused={})
                documents = {document.id: document for document in sound}
                # What has a note is left out, as what cannot be written at all.
                noted = _list_noted(kind, set(documents))
                wanted = {
                    name: document.shown()
                    for name, document in documents.items()
                    if name not in noted
                }
                with closing(self._rebuild.open()) as view:
                    found = view.read_shown(wanted)
                differing = {name for name, shown in wanted.items() if found.get(name) != shown}
                differing -= _list_noted(kind, differing)
                if differing:
                    raise RebuildRefused(
                        f"{len(differing)} of {len(wanted)} documents differ between the database "
                        f"and the fresh index, such as {', '.join(sorted(differing)[:5])}."
                    )
                compared += len(wanted)
                self._drain()
        return compared

    def compare_numbers(self) -> int:
        """The number of documents in the fresh index. Raises RebuildRefused.

        Rows with a note are left out on both sides: their last change is not drained yet.
        """
        in_database, noted = _count_rows()
        with closing(self._rebuild.open()) as view:
            found = view.count()
            settled = found - _count_present(view, list(noted))
        expected = in_database - sum(noted.values())
        if settled != expected:
            raise RebuildRefused(
                f"The database holds {expected} rows without a change that waits, but the fresh "
                f"index {settled} documents."
            )
        return found

    def switch(self) -> None:
        self._keep_lock()
        self._rebuild.publish()
        renew_token(Token.INDEX)
        if not self._was_alone():
            # This process was paused in the two lines above, or Redis came back, and with it the
            # workers: what another drainer applied to the old index meanwhile is not in this one.
            logger.warning("The lock was lost during the switch: every row is queued again.")
            indexer.queue_everything()

    def _was_alone(self) -> bool:
        """Whether no drainer can have written the old index meanwhile: the lock is held still, or
        there was no Redis to hold it in, and is none."""
        try:
            if self._lock is not None:
                return self._lock.renew()
            with hold_drainer_lock():
                return False
        except RedisError:
            return self._lock is None


def _sample(table: type[Model], wanted: int) -> Iterator[list[int]]:
    """Primary keys of about `wanted` rows, from anywhere; of all rows where there are fewer."""
    rows = table._default_manager.order_by("pk")
    known = rows.count()
    if known <= wanted:
        yield from indexer.walk_keys(table, part_rows=FILL_ROWS)
        return
    # By their number and not by a random key: keys may have gaps of any size.
    places = range(max(known - _COMPARED_AT_ONCE, 0) + 1)
    for _ in range(math.ceil(wanted / _COMPARED_AT_ONCE)):
        start = random.choice(places)  # noqa: S311 - a sample
        yield list(rows.values_list("pk", flat=True)[start : start + _COMPARED_AT_ONCE])


def _list_noted(kind: str, document_ids: set[str]) -> set[str]:
    pks = [split_name(name)[1] for name in document_ids]
    noted = Outbox.objects.filter(kind=kind, object_id__in=pks)
    return {name_document(kind, pk) for pk in noted.values_list("object_id", flat=True)}


_COUNT_ROWS = """
SELECT '' AS kind, 0 AS object_id,
       (SELECT count(*) FROM ingest_record) + (SELECT count(*) FROM ingest_errorlog) AS present
UNION ALL
SELECT kind, object_id,
       CASE kind WHEN 'record' THEN (SELECT count(*) FROM ingest_record WHERE id = object_id)
                 ELSE (SELECT count(*) FROM ingest_errorlog WHERE id = object_id) END
FROM ingest_outbox"""


def _count_rows() -> tuple[int, dict[str, int]]:
    """How many rows there are, and which documents have a note: {id: 1 if its row is there}.

    One statement, so that both are of the same moment.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_ROWS)
        rows: list[Any] = cursor.fetchall()
    total = next(present for kind, _, present in rows if not kind)
    return total, {name_document(kind, pk): present for kind, pk, present in rows if kind}


def _count_present(view: View, document_ids: list[str]) -> int:
    return sum(
        len(view.find_present(document_ids[start : start + _COMPARED_AT_ONCE]))
        for start in range(0, len(document_ids), _COMPARED_AT_ONCE)
    )


# --- jobs -------------------------------------------------------------------------------------


def request_rebuild(*, user: Any = None) -> Job:
    """A job for `work_on_job`. One that no worker has heard of is found by the drainer."""
    return Job.objects.create(kind=JOB_KIND, user=user)


def work_on_job(
    job_id: int, *, report_progress: Progress = lambda done, total: None
) -> RebuildReport | None:
    """Rebuilds for a queued job; how it ends is in the job. None where it had begun already.

    Raises what `rebuild_index` raises, after it has been noted.
    """
    progress = _JobProgress(job_id, report_progress)
    try:
        report = rebuild_index(on_start=progress.begin, report_progress=progress.note)
    except _AlreadyBegun:
        return None
    except (RebuildRefused, SearchUnavailable) as error:
        progress.end(JobState.FAILED, getattr(error, "detail", str(error)))
        raise
    except BaseException as error:
        progress.end(JobState.FAILED, f"Ended by {type(error).__name__}.")
        raise
    progress.end(JobState.FINISHED, str(report))
    return report


class _AlreadyBegun(Exception):
    """The same message was delivered twice."""


class _JobProgress:
    def __init__(self, job_id: int, report_progress: Progress) -> None:
        self._job = Job.objects.filter(pk=job_id)
        self._report_progress = report_progress
        self._has_begun = False
        self._noted_at = 0.0

    def begin(self) -> None:
        """Called with the lock held: a running job without a holder of the lock is dead."""
        queued = self._job.filter(state=JobState.QUEUED)
        if not queued.update(state=JobState.RUNNING, started_at=timezone.now()):
            raise _AlreadyBegun
        self._has_begun = True

    def note(self, done: int, total: int) -> None:
        self._report_progress(done, total)
        if time.monotonic() - self._noted_at >= PROGRESS_SECONDS or done == total:
            with begin_eagerly():
                self._job.update(done=done, total=total)
            self._noted_at = time.monotonic()

    def end(self, state: JobState, message: str) -> None:
        own = JobState.RUNNING if self._has_begun else JobState.QUEUED
        self._job.filter(state=own).update(state=state, message=message, finished_at=timezone.now())


def find_waiting_jobs() -> list[int]:
    """Rebuilds that nobody has begun. Jobs whose process died are ended first."""
    jobs = Job.objects.filter(kind=JOB_KIND)
    if jobs.filter(state=JobState.RUNNING).exists():
        try:
            with hold_rebuild_lock() as lock:
                if lock is not None:
                    _end_dead_jobs()
        except (RedisError, SearchUnavailable):
            logger.warning("Whether a rebuild died cannot be told now.", exc_info=True)
    before = timezone.now() - timedelta(seconds=ABANDONED_SECONDS)
    queued = jobs.filter(state=JobState.QUEUED, created_at__lt=before)
    return list(queued.values_list("pk", flat=True))


def _end_dead_jobs() -> None:
    """Ends the jobs of rebuilds that were killed, and removes what they left behind.

    Call it with the lock held: then no rebuild lives, and none that runs could be meant.
    """
    dead = Job.objects.filter(kind=JOB_KIND, state=JobState.RUNNING)
    if dead.exists():
        get_engine().remove_unfinished()
        dead.update(
            state=JobState.FAILED,
            message="Its process died. The old index goes on answering.",
            finished_at=timezone.now(),
        )


def _describe_rival() -> str:
    job = Job.objects.filter(kind=JOB_KIND, state=JobState.RUNNING).order_by("-pk").first()
    known = f": job {job.pk}, {job.progress:.0%} done" if job else ""
    return f"Another rebuild is under way{known}."

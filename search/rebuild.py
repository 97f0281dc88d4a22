"""Builds the index anew from the database, beside the one that answers.

Nobody drains meanwhile (the rebuild holds the drainer's lock), so every change from then on stays
in the outbox and is replayed into the fresh index after the switch. A row is therefore either read
in its latest state here or noted there. Search goes on, on the old index, and says how many changes
are pending.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db.models import Model
from redis.exceptions import ConnectionError as RedisConnectionError

from ingest.models import ErrorLog, Outbox, Record
from search import indexer
from search.documents import read_documents, split_name
from search.engines import get_engine
from search.engines.base import Rebuild
from search.lock import DrainerLock, hold_drainer_lock
from search.query import Kind

logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 60
_TABLES: tuple[tuple[Kind, type[Model]], ...] = ((Kind.RECORD, Record), (Kind.ERROR, ErrorLog))

Progress = Callable[[int, int], None]


class RebuildRefused(Exception):
    """The fresh index is not what the database holds, or the rebuild was disturbed; no switch."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    documents: int
    refused: int
    seconds: float


def rebuild_index(*, report_progress: Progress = lambda done, total: None) -> RebuildReport:
    """Fills a fresh index with every record and error, compares the counts, and switches to it.

    `report_progress(done, total)` is called after each batch. Raises RebuildRefused (the old index
    goes on answering) or SearchUnavailable.
    """
    started_at = time.monotonic()
    with _hold_lock() as lock, get_engine().start_rebuild() as rebuild:
        # Also what was parked gets another chance.
        Outbox.objects.filter(parked_at__isnull=False).update(parked_at=None, reason="")
        given, refused = _fill(rebuild, lock, report_progress)
        found = rebuild.count()
        if found != given - refused:
            raise RebuildRefused(
                f"{given - refused} documents were written, but the fresh index holds {found}."
            )
        _keep_lock(lock)
        rebuild.publish()
    return RebuildReport(
        documents=found, refused=refused, seconds=round(time.monotonic() - started_at, 1)
    )


@contextmanager
def _hold_lock() -> Iterator[DrainerLock | None]:
    try:
        with hold_drainer_lock(wait_seconds=LOCK_WAIT_SECONDS) as lock:
            if lock is None:
                raise RebuildRefused("Another process is writing the index.")
            yield lock
    except RedisConnectionError:
        # Without Redis no worker runs, so nobody drains either.
        logger.warning("Redis is out of reach: rebuilding without the drainer's lock.")
        yield None


def _keep_lock(lock: DrainerLock | None) -> None:
    if lock is not None and not lock.renew():
        raise RebuildRefused("The lock was lost: another process is writing the index.")


def _fill(rebuild: Rebuild, lock: DrainerLock | None, report_progress: Progress) -> tuple[int, int]:
    """How many documents were given to the fresh index, and how many of them it refused."""
    total = sum(table._default_manager.count() for _, table in _TABLES)
    done = given = refused = 0
    for kind, table in _TABLES:
        for pks in _walk(table):
            documents = list(read_documents(kind, pks))
            applied = rebuild.apply(upserts=documents)
            # The drainer will try them again, and park them with the reason.
            indexer.queue_changes(split_name(name) for name in applied.rejected)
            given, refused = given + len(documents), refused + len(applied.rejected)
            done += len(pks)
            _keep_lock(lock)
            report_progress(done, max(total, done))
    return given, refused


def _walk(table: type[Model]) -> Iterator[list[int]]:
    """All primary keys in batches. A row with a small key that commits late is in the outbox."""
    last = 0
    while True:
        rows = table._default_manager.filter(pk__gt=last).order_by("pk")
        pks = list(rows.values_list("pk", flat=True)[: indexer.BATCH_ROWS])
        if not pks:
            return
        yield pks
        last = pks[-1]

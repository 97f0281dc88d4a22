"""Moves committed changes from the outbox into the index.

The row that is there now decides what the index gets; a message never carries content. An outbox
row is removed only after the engine has made its document searchable, and only when it still names
the version that was read: a change that came in between stays and is read again. Rows are never
read by "id > last": a slow transaction may commit a smaller id later.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from django.db import DatabaseError
from django.db.models import Model
from django.utils import timezone

from ingest import bulk
from ingest.changes import State, Token, read_state, renew_token
from ingest.eager import begin_eagerly
from ingest.models import ErrorLog, Outbox, Record
from ingest.ports import IndexUnavailable
from search.documents import Document, name_document, read_sound_documents
from search.engines import get_engine
from search.engines.base import Applied, IndexMissing
from search.errors import SearchUnavailable
from search.query import Kind

logger = logging.getLogger(__name__)

# What a batch holds in memory are its notes; documents are read and sent a few at a time.
BATCH_ROWS = 10_000
MAX_REASON_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class _Change:
    row_id: int
    kind: str
    object_id: int
    version: int

    @property
    def document_id(self) -> str:
        return name_document(self.kind, self.object_id)


def read_coverage() -> State:
    """How much of what is committed a search can find. Read it before searching."""
    return read_state()


def ensure_index() -> bool:
    """Creates the index when there is none, and queues everything for it. True when it did."""
    engine = get_engine()
    try:
        engine.open().close()
    except IndexMissing as missing:
        logger.warning("%s A new one is filled from the database.", missing.detail)
        engine.remove_unfinished()  # of attempts before this one
        with engine.start_rebuild() as rebuild:
            # Before it answers: when the process dies between the two, the rows are queued again.
            # But not for an engine that cannot even begin, and is asked again each second.
            queue_everything()
            rebuild.publish()
        renew_token(Token.INDEX)
        return True
    return False


class Target(Protocol):
    """What takes documents: the index that answers, or one that a rebuild fills beside it."""

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str]) -> Applied: ...


def drain_batch(*, limit: int = BATCH_ROWS, targets: Sequence[Target] = ()) -> int:
    """Indexes up to `limit` waiting changes and says how many it took; 0 = nothing waits.

    Into the index that answers, or into each of `targets`: a note is removed when all have its
    document. Raises SearchUnavailable when one cannot take them now; then nothing was removed.
    """
    rows = Outbox.objects.filter(parked_at__isnull=True).order_by("pk")
    changes = [
        _Change(*row) for row in rows.values_list("pk", "kind", "object_id", "version")[:limit]
    ]
    if changes:
        _index_changes(targets or [get_engine()], changes)
    return len(changes)


def is_anything_waiting() -> bool:
    return Outbox.objects.filter(parked_at__isnull=True).exists()


def drain_everything(*, limit: int = BATCH_ROWS) -> int:
    """Drains until nothing waits; says how many changes that were."""
    ensure_index()
    total = 0
    try:
        while taken := drain_batch(limit=limit):
            total += taken
    finally:
        get_engine().rest()
    return total


def queue_everything() -> None:
    """Notes every row that is there for indexing, as if each had just changed.

    Also one that is noted: a drainer may be writing it into the index of before.
    """
    for kind, model in ((Kind.RECORD, Record), (Kind.ERROR, ErrorLog)):
        for pks in walk_keys(model, part_rows=BATCH_ROWS):
            queue_changes([(kind, pk) for pk in pks], renewed=True)


def walk_keys(model: type[Model], *, part_rows: int) -> Iterator[list[int]]:
    """All primary keys in parts. A row with a small key that commits late is in the outbox.

    No read is open between two parts: SQLite refuses to write while an older one of the same
    connection is.
    """
    last = 0
    while True:
        rows = model._default_manager.filter(pk__gt=last).order_by("pk")
        pks = list(rows.values_list("pk", flat=True)[:part_rows])
        if not pks:
            return
        yield pks
        last = pks[-1]


def queue_changes(objects: Iterable[tuple[str, int]], *, renewed: bool = False) -> None:
    """Notes rows for indexing; one that is noted already stays as it is, also when parked.

    `renewed`: it gets another version, and so outlives a drainer that has read it.
    """
    now = timezone.now()
    known: dict[str, Any] = {"ignore_conflicts": True}
    if renewed:
        known = {
            "update_conflicts": True,
            "unique_fields": ["kind", "object_id"],
            "update_fields": ["version"],
        }
    Outbox.objects.bulk_create(
        [
            Outbox(kind=kind, object_id=pk, version=secrets.randbits(63), queued_at=now)
            for kind, pk in objects
        ],
        **known,
        batch_size=500,
    )


class OutboxLookup:
    """What ingestion asks of the index (`ingest.ports.IndexLookup`)."""

    def find_absent(self, document_ids: Iterable[str]) -> set[str]:
        wanted = set(document_ids)
        try:
            with closing(get_engine().open()) as view:
                parts = _cut(sorted(wanted))
                present = {found for part in parts for found in view.find_present(part)}
        except SearchUnavailable as error:
            raise IndexUnavailable(error.detail) from error
        # One that was refused may be there in an older version: that is not the one asked for.
        return (wanted - present) | (wanted & _list_parked())

    def count_pending(self) -> int:
        return Outbox.objects.filter(parked_at__isnull=True).count()


def _list_parked() -> set[str]:
    parked = Outbox.objects.filter(parked_at__isnull=False)
    return {name_document(*row) for row in parked.values_list("kind", "object_id")}


def _cut(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), BATCH_ROWS):
        yield values[start : start + BATCH_ROWS]


def _index_changes(targets: Sequence[Target], changes: Sequence[_Change]) -> None:
    """Makes `changes` searchable, parks those that cannot be, and removes the others' rows."""
    rejected: dict[str, str] = {}
    is_broken = False
    try:
        for target in targets:
            rejected |= _apply(target, changes)
    except (SearchUnavailable, DatabaseError, OSError, MemoryError):
        raise
    except Exception as error:
        is_broken = True
        if len(changes) == 1:
            logger.exception("%s cannot be indexed.", changes[0].document_id)
            rejected = {changes[0].document_id: f"{type(error).__name__}: {error}"}
    # Not while the exception lives: it keeps the reading of the batch open, and SQLite refuses to
    # write while an older read of the same connection is.
    if is_broken and len(changes) > 1:
        # One document breaks the batch: halve it until the one is alone.
        middle = len(changes) // 2
        _index_changes(targets, changes[:middle])
        _index_changes(targets, changes[middle:])
        return
    _park([change for change in changes if change.document_id in rejected], rejected)
    _remove([change for change in changes if change.document_id not in rejected])


def _apply(target: Target, changes: Sequence[_Change]) -> dict[str, str]:
    absent = {change.document_id for change in changes}
    refused: dict[str, str] = {}

    def read_present() -> Iterator[Document]:
        for kind in Kind:
            pks = [change.object_id for change in changes if change.kind == kind]
            for document in read_sound_documents(kind, pks, refused=refused):
                absent.discard(document.id)
                yield document

    def list_absent() -> Iterator[str]:
        # The engine asks for these after it has taken all the documents.
        yield from sorted(absent - refused.keys())

    applied = target.apply(upserts=read_present(), deletes=list_absent())
    # A document that the engine refused may have an older version in the index. It is shown as it
    # was rather than hidden; the coverage of each answer counts it as parked.
    return applied.rejected | refused


def _remove(changes: Sequence[_Change]) -> None:
    """Removes the rows of what is searchable now, unless they name a newer version."""
    if not changes:
        return
    taken = {change.row_id: change.version for change in changes}
    with begin_eagerly():
        # By a range, for a list of thousands takes longer than what it finds. Others' rows may lie
        # in it.
        rows = Outbox.objects.filter(pk__gte=min(taken), pk__lte=max(taken))
        present = set(rows.values_list("pk", flat=True))
        # A row that somebody is changing at this moment stays: it will name another version, and
        # two who wait for each other's rows in different orders would wait for ever (PostgreSQL).
        free = rows.select_for_update(skip_locked=True).values_list("pk", "version")
        bulk.delete_rows(Outbox, [pk for pk, version in free if taken.get(pk) == version])
        renew_token(Token.INDEX)
        # Nobody but a drainer removes rows. One that is gone means that this process was paused
        # past its lock, another one took over, and what was just indexed may be older than what
        # the other one indexed: read it once more.
        queue_changes((c.kind, c.object_id) for c in changes if c.row_id not in present)


def _park(changes: Sequence[_Change], reasons: dict[str, str]) -> None:
    now = timezone.now()
    if changes:
        # Before: from then on nothing says that these rows have changed.
        renew_token(Token.INDEX)
    for change in changes:
        Outbox.objects.filter(pk=change.row_id, version=change.version).update(
            parked_at=now, reason=reasons[change.document_id][:MAX_REASON_CHARS]
        )

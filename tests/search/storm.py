"""Rows that are written, changed and deleted while something else goes on."""

from __future__ import annotations

import threading
import time
from contextlib import closing

from django.db import connections, transaction
from django.utils import timezone

from ingest.models import ErrorLog, Record, Source
from search.documents import name_document, read_documents
from search.engines.base import Engine, View
from search.query import Kind
from search.rebuild import RebuildReport, rebuild_index

ROUND_ROWS = 25
ROUNDS_PER_SECOND = 20


class Storm(threading.Thread):
    """500 rows written, 500 changed and 500 deleted a second, in a thread with its own connection.

    Use it as a context: the end of the block waits for the last round.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._is_over = threading.Event()
        self.error: Exception | None = None
        self.rounds = 0

    def __enter__(self) -> Storm:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self.join()
        assert self.error is None, self.error

    def wait_for_rounds(self, count: int) -> None:
        while self.rounds < count and self.is_alive():
            time.sleep(0.01)

    def run(self) -> None:
        try:
            while not self._is_over.wait(1 / ROUNDS_PER_SECOND):
                self._play_round()
                self.rounds += 1
        except Exception as error:
            self.error = error
        finally:
            connections.close_all()

    def _play_round(self) -> None:
        start = 1_000_000 + self.rounds * ROUND_ROWS
        with transaction.atomic():
            Record.objects.bulk_create(
                make_record(self._source, start + number) for number in range(ROUND_ROWS)
            )
            rows = Record.objects.filter(source=self._source)
            oldest = rows.order_by("pk").values_list("pk", flat=True)
            rows.filter(pk__in=list(oldest[:ROUND_ROWS])).delete()
            changed = rows.order_by("title", "pk").values_list("pk", flat=True)
            rows.filter(pk__in=list(changed[:ROUND_ROWS])).update(title=f"z changed {start}")


def rebuild_amid_storm(source: Source, *, rounds: int) -> tuple[RebuildReport, int]:
    """Rebuilds while rows change, `rounds` after the first change and some before the last one.

    Gives its report, and how many rounds there were until the switch.
    """
    with Storm(source) as storm:
        storm.wait_for_rounds(rounds)
        report = rebuild_index()
        after_the_switch = storm.rounds
        storm.wait_for_rounds(after_the_switch + 3)
    return report, after_the_switch


def make_record(source: Source, number: int) -> Record:
    now = timezone.now()
    return Record(
        source=source,
        key=str(number),
        title=f"row {number}",
        data={"id": number},
        content_hash=str(number),
        occurred_at=now,
        stored_at=now,
        updated_at=now,
    )


def find_differences(engine: Engine) -> set[str]:
    """The documents that are not in the index as they are in the database, byte for byte."""
    with closing(engine.open()) as view:
        return _find_differences(view)


def _find_differences(view: View) -> set[str]:
    differing: set[str] = set()
    count = 0
    for kind, model in ((Kind.RECORD, Record), (Kind.ERROR, ErrorLog)):
        pks = list(model._default_manager.values_list("pk", flat=True))
        wanted = {document.id: document.shown() for document in read_documents(kind, pks)}
        assert wanted.keys() == {name_document(kind, pk) for pk in pks}
        found = view.read_shown(wanted)
        differing |= {name for name, shown in wanted.items() if found.get(name) != shown}
        count += len(wanted)
    extra = view.count() - count + len([name for name in differing if not _is_there(view, name)])
    return differing | {f"{extra} that are no rows"} if extra else differing


def _is_there(view: View, name: str) -> bool:
    return bool(view.find_present([name]))

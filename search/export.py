"""All hits of a search as one stream, which proves its own completeness.

The last line is a receipt: how many rows went before it, and the SHA-256 of all bytes before it. A
stream that breaks off has none, and the connection is cut besides, so it never looks whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from ingest.changes import read_state
from ingest.errorlog import record_server_error
from ingest.models import Job, JobState
from search.answers import find_url, format_time
from search.engines import get_engine
from search.engines.base import Deadline, EngineHit, IndexMissing, View
from search.errors import SearchError, SearchUnavailable
from search.plan import RANK_UNIT, Plan, build_plan
from search.query import SearchQuery
from search.services import ORDERS, find_hits, has_documents
from search.visibility import User, read_visibility

JOB_KIND = "export"
PIECE_BYTES = 32_768
PROGRESS_SECONDS = 1.0
# Longer than anybody reads.
DEAD_AFTER = timedelta(days=1)

COLUMNS = (
    *("id", "kind", "source", "outcome", "status_code", "title", "text", "occurred_at"),
    *("score", "url", "data"),
)
# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"), also full-width.
_FORMULA_SIGNS = tuple("=+-@\t\r\n＝＋－＠")


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"

    @property
    def content_type(self) -> str:
        return {
            Format.CSV: "text/csv; charset=utf-8; header=present",
            Format.NDJSON: "application/x-ndjson; charset=utf-8",
        }[self]


class ExportBroken(SearchError):
    """The index gave other rows than it had counted."""

    status_code = 500
    code = "export_broken"


class Export:
    """An iterable of bytes. Close it, whether it was read to its end or not.

    `total` rows of one moment of the index follow. A Job tells how far they are; it fails when the
    engine does, or when whoever reads goes away.
    """

    def __init__(
        self, *, query: SearchQuery, plan: Plan, total: int, view: View | None, form: Format
    ) -> None:
        self.total = total
        self._query = query
        self._plan = plan
        self._view = view
        self._write_rows = _WRITERS[form]
        self._form = form
        self._job: Job | None = None
        self._rows = 0
        self._pieces = self._run()

    def start_job(self, *, user: User) -> None:
        self._job = Job.objects.create(
            kind=JOB_KIND,
            user_id=user.pk,
            state=JobState.RUNNING,
            total=self.total,
            started_at=timezone.now(),
            message=f"{self._form} {self._query.raw}"[:500].strip(),
        )

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()
        if self._view is not None:
            self._view.close()
            self._view = None
        # Nobody has read to the end, or even begun.
        self._end_job(JobState.FAILED, _("Whoever was reading it went away."))

    def _run(self) -> Generator[bytes]:
        try:
            yield from self._seal(self._join(self._write_rows(self._read_hits())))
        except GeneratorExit:
            raise  # see close()
        except Exception as error:  # the boundary of the stream: nobody above hears of it
            self._fail(error)
            raise
        self._end_job(JobState.FINISHED, "")

    def _read_hits(self) -> Iterator[EngineHit]:
        if self._view is not None:
            report_at = time.monotonic() + PROGRESS_SECONDS
            for hit in self._view.scan(self._plan, order=ORDERS[self._query.sort]):
                yield hit
                self._rows += 1
                if time.monotonic() > report_at:
                    self._update_job(done=self._rows)
                    report_at = time.monotonic() + PROGRESS_SECONDS
        if self._rows != self.total:
            raise ExportBroken(f"{self.total} hits were counted, but {self._rows} read.")

    def _join(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """A piece for each few lines: a system call for each would cost more than the line."""
        piece = bytearray()
        for line in lines:
            piece += line
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)

    def _seal(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            yield piece
        yield _RECEIPTS[self._form](self._rows, digest.hexdigest())

    def _fail(self, error: Exception) -> None:
        detail = error.detail if isinstance(error, SearchUnavailable) else str(error)
        record_server_error(
            error_type=type(error).__name__,
            status_code=error.status_code if isinstance(error, SearchError) else 500,
            message=f"An export broke off after {self._rows} of {self.total} rows: {detail}",
            path="/api/search/export/",
            user=self._job.user if self._job else None,
            correlation_id="",
        )
        told = error.message if isinstance(error, SearchError) else _("Something went wrong.")
        self._end_job(JobState.FAILED, told)

    def _end_job(self, state: JobState, message: str) -> None:
        changes: dict[str, Any] = {"message": message} if message else {}
        self._update_job(state=state, done=self._rows, finished_at=timezone.now(), **changes)
        self._job = None

    def _update_job(self, **changes: Any) -> None:
        if self._job is not None:
            Job.objects.filter(pk=self._job.pk).update(**changes)


def open_export(query: SearchQuery, *, user: User, form: Format) -> Export:
    """The export of all hits of `query`, counted but not read yet; of what `user` may see.

    The stage is that of a search of the same `size`. Raises SearchUnavailable.
    """
    visibility = read_visibility(user, read_state())
    try:
        view = get_engine().open(is_pinned=True)
    except IndexMissing:
        if has_documents():
            raise
        plan = build_plan(query, stage=0, visibility=visibility)
        return Export(query=query, plan=plan, total=0, view=None, form=form)
    try:
        deadline = Deadline(settings.SEARCH_TIMEOUT_SECONDS)
        plan, found = find_hits(view, query, visibility, deadline)
    except BaseException:
        view.close()
        raise
    return Export(query=query, plan=plan, total=found.total, view=view, form=form)


def end_dead_jobs() -> None:
    """Ends the jobs of exports whose process was killed. One that lives tells its end itself."""
    now = timezone.now()
    running = Job.objects.filter(kind=JOB_KIND, state=JobState.RUNNING)
    running.filter(started_at__lt=now - DEAD_AFTER).update(
        state=JobState.FAILED, message="Its process died.", finished_at=now
    )


def _describe(hit: EngineHit) -> dict[str, Any]:
    shown = hit.shown
    return {
        "id": shown["id"],
        "kind": shown["kind"],
        "source": shown["source"],
        "outcome": shown["outcome"],
        "status_code": shown["status_code"],
        "title": shown["title"],
        "text": shown["body"],
        "occurred_at": format_time(shown["at_us"]),
        "score": None if hit.score_units is None else round(hit.score_units / RANK_UNIT, 4),
        "url": find_url(shown["id"]),
        "data": shown["data"],
    }


def _write_ndjson(hits: Iterator[EngineHit]) -> Iterator[bytes]:
    for hit in hits:
        yield _dump(_describe(hit)).encode() + b"\n"


def _write_csv(hits: Iterator[EngineHit]) -> Iterator[bytes]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180

    def take() -> bytes:
        line = buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
        return line

    writer.writerow(COLUMNS)
    yield take()
    for hit in hits:
        fields = _describe(hit)
        fields["data"] = _dump(fields["data"])
        writer.writerow([_make_harmless(fields[name]) for name in COLUMNS])
        yield take()


def _make_harmless(value: Any) -> Any:
    """No cell is a formula: an apostrophe goes before what begins like one."""
    if isinstance(value, str) and value.startswith(_FORMULA_SIGNS):
        return f"'{value}"
    return value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sign_ndjson(rows: int, digest: str) -> bytes:
    return _dump({"receipt": {"rows": rows, "sha256": digest}}).encode() + b"\n"


def _sign_csv(rows: int, digest: str) -> bytes:
    return f"# rows={rows},sha256={digest}\r\n".encode()


_WRITERS: dict[Format, Callable[[Iterator[EngineHit]], Iterator[bytes]]] = {
    Format.CSV: _write_csv,
    Format.NDJSON: _write_ndjson,
}
_RECEIPTS: dict[Format, Callable[[int, str], bytes]] = {
    Format.CSV: _sign_csv,
    Format.NDJSON: _sign_ndjson,
}

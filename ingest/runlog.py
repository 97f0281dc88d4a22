"""A run's log as CSV: one line per request, streamed, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from ingest import selectors
from ingest.models import Request, Run

COLUMNS = (
    *("key", "url", "outcome", "attempts", "status_code", "latency_ms", "records"),
    *("error", "evidence", "finished_at"),
)
ROWS_PER_CHUNK = 2000

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
# What makes a spreadsheet compute a cell, also in the full-width forms that some of them accept.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


class _Lines:
    """A file for csv.writer that keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def write(self, text: str) -> int:
        self._parts.append(text)
        return len(text)

    def take(self) -> str:
        text = "".join(self._parts)
        self._parts.clear()
        return text


def write_run_log(run: Run) -> Iterator[str]:
    """The CSV in chunks, rows in the order of the plan. Each chunk is one short query."""
    configuration = selectors.public_configuration_of(run)
    lines = _Lines()
    writer = csv.writer(lines)
    writer.writerow(COLUMNS)
    last = -1
    while rows := list(
        Request.objects.filter(run=run, position__gt=last).order_by("position")[:ROWS_PER_CHUNK]
    ):
        for row in rows:
            described = selectors.describe_request(row, configuration)
            writer.writerow([_cell(described[name]) for name in COLUMNS])
        last = rows[-1].position
        yield lines.take()
    yield lines.take()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _as_text(value)
    if text.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _as_text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

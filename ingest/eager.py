"""A short transaction that does not wait behind a busy writer for longer than it must."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction

LOOK_SECONDS = 0.002


@contextmanager
def begin_eagerly(*, wait_seconds: float = 30.0) -> Iterator[None]:
    """A transaction that begins as soon as SQLite's one writer is free; elsewhere a plain one.

    SQLite's own way of waiting looks ten times a second and knows no queue. Beside a fetcher, which
    begins its next transaction some milliseconds after the last, it was measured to lose for three
    seconds at a time. For transactions of a few milliseconds only: whoever waits SQLite's way loses
    to this one in turn. Raises OperationalError when the writer is not free in time.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic():
            yield
        return
    atomic = transaction.atomic()
    _begin(atomic, gives_up_at=time.monotonic() + wait_seconds)
    try:
        yield
    except BaseException as error:
        atomic.__exit__(type(error), error, error.__traceback__)
        raise
    atomic.__exit__(None, None, None)


def _begin(atomic: transaction.Atomic, *, gives_up_at: float) -> None:
    usual = _read_patience()
    _set_patience(0)
    try:
        while True:
            try:
                atomic.__enter__()
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > gives_up_at:
                    raise
                time.sleep(LOOK_SECONDS)
            else:
                return
    finally:
        _set_patience(usual)


def _read_patience() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        (milliseconds,) = cursor.fetchone()
    return int(milliseconds)


def _set_patience(milliseconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")

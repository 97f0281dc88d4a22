"""Time in which this process was at work: a machine that stalls proves nothing about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def let_work(seconds: float) -> None:
    """Sleeps in pieces: a machine that stalls holds up the threads that are to work meanwhile, and
    takes no more than one of them."""
    for _ in range(round(seconds / 0.02)):
        time.sleep(0.02)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Gives how many seconds this process has had, those apart in which the machine stalled."""
    is_over = threading.Event()
    began = looked_at = time.monotonic()
    stalled = 0.0

    def find_stall(now: float) -> float:
        return max(0.0, now - looked_at - 0.1)

    def watch() -> None:
        nonlocal looked_at, stalled
        while not is_over.wait(0.02):
            now = time.monotonic()
            stalled, looked_at = stalled + find_stall(now), now

    def read() -> float:
        now = time.monotonic()
        return now - began - stalled - find_stall(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield read
    finally:
        is_over.set()
        watcher.join()

"""Time in which this process was at work: a machine that stalls proves nothing about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 0.005
# Shorter ones are the day's work of a machine with few cores.
STALL_SECONDS = 0.1


class _Watch:
    """`longest`: for how long the process was held up at most; `stalled`: for how long in all,
    stalls alone."""

    def __init__(self) -> None:
        self.longest = self.stalled = 0.0
        self.looked_at = time.monotonic()

    def find_stall(self, now: float) -> float:
        return max(0.0, now - self.looked_at - STALL_SECONDS)

    def look(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self.looked_at - LOOK_SECONDS)
        self.stalled, self.looked_at = self.stalled + self.find_stall(now), now


def let_work(seconds: float) -> None:
    """Sleeps in pieces: a machine that stalls holds up the threads that are to work meanwhile, and
    takes no more than one of them."""
    for _ in range(round(seconds / 0.02)):
        time.sleep(0.02)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Gives how many seconds this process has had, those apart in which the machine stalled."""
    with _watching() as watch:
        began = watch.looked_at

        def read() -> float:
            now = time.monotonic()
            return now - began - watch.stalled - watch.find_stall(now)

        yield read


@contextmanager
def watch_lag() -> Iterator[Callable[[], float]]:
    """Tells for how long this process, which counts others' requests, was held up at most."""
    with _watching() as watch:
        yield lambda: watch.longest


@contextmanager
def _watching() -> Iterator[_Watch]:
    watch, is_over = _Watch(), threading.Event()

    def keep_looking() -> None:
        while not is_over.wait(LOOK_SECONDS):
            watch.look()

    watcher = threading.Thread(target=keep_looking, daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        is_over.set()
        watcher.join()

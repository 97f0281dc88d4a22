"""Background work of search. Queue: `index`."""

from __future__ import annotations

import logging
import time

from celery import shared_task

from search import indexer
from search.errors import SearchUnavailable
from search.lock import hold_drainer_lock

logger = logging.getLogger(__name__)

# Short, because a worker that is asked to stop ends its task first, and because maintenance tasks
# take turns with this one. The task wakes its own successor.
SLICE_SECONDS = 5.0
POLL_SECONDS = 0.2
ENGINE_DOWN_SECONDS = 2.0


@shared_task(name="search.tasks.drain_outbox", ignore_result=True)
def drain_outbox() -> None:
    """Moves changes into the index for one slice, then wakes its successor.

    One drainer at a time: a delivery beside a running one returns at once. When the engine is down
    the outbox keeps everything, and the next try comes by itself.
    """
    if drain_slice(seconds=SLICE_SECONDS):
        drain_outbox.delay()


def drain_slice(*, seconds: float) -> bool:
    """Whether this process was the drainer and should go on."""
    with hold_drainer_lock() as lock:
        if lock is None:
            return False
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            if lock.is_wanted() or not lock.renew():
                return False
            time.sleep(_drain_once())
    return True


def _drain_once() -> float:
    """Indexes a batch and says how many seconds to wait before the next."""
    try:
        indexer.ensure_index()
        return 0.0 if indexer.drain_batch() else POLL_SECONDS
    except SearchUnavailable as error:
        logger.warning("The outbox waits for the search engine: %s", error.detail)
        return ENGINE_DOWN_SECONDS

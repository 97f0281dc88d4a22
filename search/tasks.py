"""Background work of search. Queue: `index`."""

from __future__ import annotations

import logging
import time

from celery import shared_task
from redis.exceptions import RedisError

from ingest.stopping import is_asked_to_stop
from search import export, indexer, rebuild
from search.engines import get_engine
from search.engines.base import IndexOutgrown
from search.errors import SearchUnavailable
from search.lock import hold_drainer_lock

logger = logging.getLogger(__name__)

# A slice gives its process back when nothing waits, and after a minute anyway; its successor is
# woken at once. Shorter ones would queue behind maintenance tasks while changes wait.
SLICE_SECONDS = 60.0
IDLE_SLICE_SECONDS = 5.0
# Between batches that are not full: each costs a commit, and a run writes all the time. The smaller
# its batches are, the more of its time the engine spends on joining segments.
POLL_SECONDS = 0.2
ENGINE_DOWN_SECONDS = 1.0


@shared_task(name="search.tasks.drain_outbox", ignore_result=True)
def drain_outbox() -> None:
    """Moves changes into the index for one slice, then wakes its successor.

    One drainer at a time: a delivery beside a running one returns at once. When the engine is down
    the outbox keeps everything, and the next try comes by itself.
    """
    for job_id in rebuild.find_waiting_jobs():
        rebuild_index.delay(job_id)
    try:
        if drain_slice(seconds=SLICE_SECONDS, idle_seconds=IDLE_SLICE_SECONDS):
            drain_outbox.delay()
    except (RedisError, drain_outbox.OperationalError) as error:
        logger.warning("The outbox waits for Redis: %s", error)


@shared_task(name="search.tasks.rebuild_index", ignore_result=True)
def rebuild_index(job_id: int) -> None:
    """Works on a job of `rebuild.request_rebuild`; how it ends is in the job."""
    try:
        rebuild.work_on_job(job_id)
    except (rebuild.RebuildRefused, SearchUnavailable) as error:
        logger.warning("Job %d did not rebuild the index: %s", job_id, error)


@shared_task(name="search.tasks.tidy_up", ignore_result=True)
def tidy_up() -> None:
    """Ends what nobody is at any more and nobody else finds."""
    export.end_dead_jobs()


def drain_slice(*, seconds: float, idle_seconds: float | None = None) -> bool:
    """Whether this process was the drainer and should go on.

    Drains for `seconds`, or only `idle_seconds` where nothing waits then.
    """
    with hold_drainer_lock() as lock:
        if lock is None:
            return False
        started_at = time.monotonic()
        idle_seconds = seconds if idle_seconds is None else idle_seconds
        try:
            while (spent := time.monotonic() - started_at) < seconds:
                if spent >= idle_seconds and not indexer.is_anything_waiting():
                    break
                if is_asked_to_stop() or lock.is_wanted() or not lock.renew():
                    return False
                time.sleep(_drain_once())
        except IndexOutgrown as error:
            # Left to the workers of the newer version, which wait for this lock.
            logger.warning("%s", error.detail)
            return False
        finally:
            get_engine().rest()
    return True


def _drain_once() -> float:
    """Indexes a batch and says how many seconds to wait before the next."""
    try:
        indexer.ensure_index()
        return 0.0 if indexer.drain_batch() == indexer.BATCH_ROWS else POLL_SECONDS
    except IndexOutgrown:
        raise
    except SearchUnavailable as error:
        logger.warning("The outbox waits for the search engine: %s", error.detail)
        return ENGINE_DOWN_SECONDS

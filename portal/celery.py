"""The Celery application. Its queues, routes and schedule are in portal.settings (`CELERY_…`).

The ledger is the queue of requests; a message is a wake-up call only. It is acknowledged early, and
may be lost or delivered twice.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

from celery import Celery, bootsteps
from celery.signals import worker_process_init
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")  # noqa: TID251
# Checks import all pages and dashboards, half a second at each start of a worker. They are for
# those who change or deploy the portal (`make check`, `manage.py check --deploy`).
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")  # noqa: TID251

app = Celery("gleaner")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# A worker that loses Redis would put its messages back through the connection that is gone, and die
# of the error (docs/decisions/0083).
Channel.do_restore = False

WAKE_UP_TASKS = ("ingest.tasks.scan_due", "search.tasks.drain_outbox")
WAKE_UP_EXPIRES_SECONDS = 60


class SignsOfLife(bootsteps.StartStopStep):
    """Tells /health/ready that this worker lives, and looks for work as soon as it is connected.

    A step of the consumer, not a signal: it starts again after each lost connection, where the
    messages of before are gone and Celery has emptied the timer.
    """

    requires = ("celery.worker.consumer:Tasks",)

    def __init__(self, parent: Consumer, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._timer_entry: Any = None

    def start(self, parent: Consumer) -> None:
        from portal import heartbeat

        queues = sorted(app.amqp.queues.consume_from)
        self._timer_entry = parent.timer.call_repeatedly(
            heartbeat.INTERVAL_SECONDS, heartbeat.beat, (parent.hostname, queues)
        )
        heartbeat.beat(parent.hostname, queues)
        for name in WAKE_UP_TASKS:
            # The worker would end of this error. It connects again, and comes back here, where the
            # broker is gone in just this moment.
            with contextlib.suppress(OperationalError):
                if name in app.tasks:
                    app.tasks[name].apply_async(expires=WAKE_UP_EXPIRES_SECONDS)

    def stop(self, parent: Consumer) -> None:
        from portal import heartbeat

        if self._timer_entry is not None:
            self._timer_entry.cancel()
        heartbeat.sign_off(parent.hostname)


app.steps["consumer"].add(SignsOfLife)


@worker_process_init.connect
def leave_inherited_objects_alone(**kwargs: Any) -> None:
    gc.freeze()

"""Whether this worker was asked to end, as systemd, Kubernetes and `docker stop` do by SIGTERM.

Celery lets running tasks end by themselves then and tells them nothing; ours run for up to a
minute, and would be killed before that. So they look here, and end in order.
"""

from __future__ import annotations

from mmap import mmap
from typing import Any

from celery.signals import worker_shutting_down

# Memory that the processes of a worker's pool share with the one that forked them. A byte, because
# it needs no lock that somebody killed could have taken with him.
_note = mmap(-1, 1)


@worker_shutting_down.connect
def ask_to_stop(**kwargs: Any) -> None:
    _note[0] = 1


def is_asked_to_stop() -> bool:
    return _note[0] == 1

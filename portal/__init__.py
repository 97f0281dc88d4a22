"""Gleaner's Django project."""

import gc

from portal.celery import app as celery_app

# Rows and answers come by the thousand and hold no cycles, nor does what a start imports: it takes
# a tenth less of time (docs/decisions/0083).
gc.set_threshold(20_000, 20, 20)

__all__ = ["celery_app"]

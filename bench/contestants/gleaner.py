"""Gleaner: every city stored, indexed and reconciled, by the two workers that `make up` runs.

Timed from the start of the run (planning the ledger is part of it) until the run has finished, the
outbox is empty and the reconciliation report says that every record is stored and can be found.
A short run before warms the workers up. `--sizes` are runs of a source each, one after the other.
"""

from __future__ import annotations

import argparse
import time

from bench import own_portal

# isort: split
from bench.race import CONCURRENCY, report
from ingest import services
from ingest.models import Outbox, Run
from ingest.outcomes import FINAL_STATES
from ingest.reconcile import reconcile_run

WARM_UP = 500
RUN_SECONDS = 1_800.0


def describe_source(slug: str, address: str, size: int) -> dict[str, object]:
    return {
        "slug": slug,
        "request": {"url": f"{address}/cities/{{id}}"},
        "plan": {"type": "range", "name": "id", "start": 1, "stop": size},
        "records": {
            "path": "data",
            "key": "id",
            "title": "name",
            "body": ["country", "alternate_names"],
            "occurred_at": "updated_at",
            "weight": "population",
        },
        "limits": {"per_second": None, "concurrency": CONCURRENCY},
    }


def ingest(slug: str, address: str, size: int) -> float:
    """Seconds until everything is stored, indexed and reconciled."""
    user = own_portal.make_user()
    source = services.create_source(owner=user, data=describe_source(slug, address, size))
    began = time.perf_counter()
    run = services.start_run(source=source, user=user)
    own_portal.wait_for("the run", lambda: is_finished(run), seconds=RUN_SECONDS)
    own_portal.wait_for("the index", lambda: not Outbox.objects.exists(), seconds=RUN_SECONDS)
    run.refresh_from_db()
    books = reconcile_run(run)
    took = time.perf_counter() - began
    found = (books.verdict["complete"], books.stored, books.indexed, books.unknown)
    if found != (True, size, size, 0):
        raise RuntimeError(f"complete, stored, indexed, unknown: {found} of {size}")
    return took


def is_finished(run: Run) -> bool:
    """Asks for nothing but the state: what looks often must not be what is being timed."""
    return Run.objects.filter(pk=run.pk, state__in=FINAL_STATES).exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--sizes", required=True)
    given = parser.parse_args()
    own_portal.migrate()
    with own_portal.run_programs("redis", "worker-fetch", "worker-index") as running:
        ingest("warm-up", given.address, WARM_UP)
        sizes = [int(size) for size in given.sizes.split(",")]
        with own_portal.MemoryWatch(running["worker-fetch"]) as memory:
            seconds = {size: ingest(f"cities-{size}", given.address, size) for size in sizes}
        report(seconds, peak_mb=memory.peak, private_peak_mb=memory.private_peak)


if __name__ == "__main__":
    main()

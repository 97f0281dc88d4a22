"""From commit to searchable while a run is writing: probes among the rows of a run.

While a run fetches as fast as it can, a record of another source is committed ten times a second;
the index is looked into 50 times a second until it is found. The time counts from the commit's
return.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing

from django.db import connections
from django.utils import timezone

from bench import own_portal

# isort: split
from bench.contestants.gleaner import describe_source, ingest, is_finished
from bench.table import NOT_MEASURED, Options, Row, judge, quantile, run_benchmark
from bench.upstream import run_upstream
from ingest import services
from ingest.models import Record, Run, Source
from search.documents import name_document
from search.engines import get_engine
from search.query import Kind

PROBE_SECONDS = 0.1
LOOK_SECONDS = 0.02
TARGET_SECONDS = 2.0
LATE_SECONDS = 60.0


class Probes:
    """Writes probes in a thread of its own until `stop`; knows when each was committed."""

    def __init__(self, source: Source) -> None:
        self.committed_at: dict[str, float] = {}
        self._source = source
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _write(self) -> None:
        try:
            number = 0
            while not self._stopped.wait(PROBE_SECONDS):
                number += 1
                now = timezone.now()
                record = Record.objects.create(
                    source=self._source, key=str(number), title=f"Probe {number}", data={},
                    occurred_at=now, content_hash="", stored_at=now, updated_at=now,
                )  # fmt: skip
                self.committed_at[name_document(Kind.RECORD, record.pk)] = time.perf_counter()
        finally:
            connections.close_all()


def measure(options: Options) -> list[Row]:
    count = options.choose(quick=3_000, normal=30_000)
    own_portal.migrate()
    user = own_portal.make_user()
    with (
        run_upstream(count) as address,
        own_portal.run_programs("redis", "worker-fetch", "worker-index"),
    ):
        ingest("warm-up", address, 500)
        probed = services.create_source(owner=user, data=describe_source("probes", address, 1))
        source = services.create_source(owner=user, data=describe_source("cities", address, count))
        run = services.start_run(source=source, user=user)
        seconds = watch(Probes(probed), run)
    what = f"outbox to searchable during a run, {len(seconds)} probes"
    if not seconds:
        return [Row(what, "", "the run ended before the first", verdict=NOT_MEASURED)]
    p99 = quantile(seconds, 99)
    text = f"p99 {p99:.2f} s (p50 {quantile(seconds, 50):.2f}, worst {max(seconds):.2f})"
    verdict = judge(p99, at_most=TARGET_SECONDS)
    return [Row(what, text, "", None, f"p99 ≤ {TARGET_SECONDS:g} s", verdict)]


def watch(probes: Probes, run: Run) -> list[float]:
    """Seconds from commit to searchable of each probe that was written while the run went on."""
    found: dict[str, float] = {}
    engine = get_engine()
    probes.start()
    looked_at = time.perf_counter()
    ends_at = float("inf")
    while time.perf_counter() < ends_at:
        waiting = [name for name in list(probes.committed_at) if name not in found]
        with closing(engine.open()) as view:
            present = view.find_present(waiting) if waiting else set()
        seen_at = time.perf_counter()
        found |= {name: seen_at - probes.committed_at[name] for name in present}
        if ends_at == float("inf"):
            if seen_at - looked_at > 0.5:
                looked_at = seen_at
                if is_finished(run):
                    probes.stop()
                    ends_at = seen_at + LATE_SECONDS
        elif len(found) == len(probes.committed_at):
            break
        time.sleep(LOOK_SECONDS)
    lost = len(probes.committed_at) - len(found)
    assert not lost, f"{lost} probes are not searchable after {LATE_SECONDS:.0f} s"
    return list(found.values())


if __name__ == "__main__":
    run_benchmark(__doc__, measure)

"""kill -9 at random moments of a run: nothing is lost, nothing is stored twice.

`FAULT_SEEDS=7,19` runs these trials only, `FAULT_SEEDS=1-200` many more.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ingest.outcomes import RunState
from tests.faults.books import count_unwritten, read_leases
from tests.faults.site import Site
from tests.faults.upstream import UNRULY, Service

pytestmark = pytest.mark.faults

REQUESTS = 2_000
# Whom a kill hits, and how often.
VICTIMS = {"worker": 5, "child": 3, "index": 1, "worker and index": 1}


def read_seeds() -> list[int]:
    text = os.environ.get("FAULT_SEEDS", "1-20")  # noqa: TID251 - for a person at a terminal
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


@dataclass(frozen=True, slots=True)
class Kill:
    """Whom to kill: once the upstream has received `sends`, or in a sweep (None), and then some."""

    victim: str
    sends: int | None
    delay_seconds: float


def plan_kills(chance: random.Random) -> list[Kill]:
    moments: list[int | None] = [chance.randint(1, REQUESTS // 2)]
    moments += sorted(chance.sample(range(REQUESTS // 2, REQUESTS), k=chance.choice((0, 1, 1))))
    if chance.random() < 0.3:
        moments.append(None)
    return [
        Kill(
            chance.choices(list(VICTIMS), list(VICTIMS.values()))[0],
            moment,
            chance.uniform(0, 0.2),
        )
        for moment in moments
    ]


def strike(site: Site, kill: Kill, run: int, service: Service) -> Counter[int]:
    """Kills and starts anew; gives what the dead had not written."""
    fetcher = site.find_fetcher(run) or site.fetchers[0]
    before = read_leases(site.database, run)
    if kill.victim == "child":
        site.kill_children(fetcher)
    if "index" in kill.victim:
        site.stack.kill("worker-index")
        site.expire("search:*")
    if "worker" in kill.victim:
        site.stack.kill(fetcher)
    unwritten = count_unwritten(site.database, run, service, before=before)
    if "worker" in kill.victim:
        site.start_fetcher(fetcher)
    if "index" in kill.victim:
        site.stack.start("worker-index")
    return unwritten


@pytest.mark.parametrize("seed", read_seeds())
def test_a_run_whose_workers_are_killed_loses_nothing_and_doubles_nothing(
    sqlite_site: Site, postgresql_site: Site, seed: int
) -> None:
    # Side by side, because most of a trial is waiting for leases to end.
    with ThreadPoolExecutor() as pool:
        trials = [pool.submit(try_out, site, seed) for site in (sqlite_site, postgresql_site)]
    for trial in trials:
        trial.result()


def try_out(site: Site, seed: int) -> None:
    """One trial: a run, its kills, and what all accounts say of it."""
    chance = random.Random(seed)
    service = site.upstream.open_service(
        f"trial-{seed}",
        REQUESTS,
        seed=seed,
        troubles=UNRULY,
        latency_seconds=chance.choice((0.0, 0.002, 0.01)),
    )
    limits = {
        "per_second": chance.choice((None, 1500)),
        "concurrency": chance.choice((10, 20, 50)),
    }
    kills = plan_kills(chance)
    print(f"seed {seed}: {limits}, {kills}")  # noqa: T201 - shown with a failure
    run = site.start_run(service, limits=limits)
    unwritten: Counter[int] = Counter()
    hits = 0

    for kill in kills:

        def has_come(kill: Kill = kill) -> bool:
            if site.is_over(run):
                return True
            if kill.sends is None:
                return site.database.state_of(run) == RunState.SWEEPING
            return service.sends >= kill.sends

        site.wait_for("the moment of a kill", has_come)
        time.sleep(kill.delay_seconds)
        hits += not site.is_over(run)
        unwritten |= strike(site, kill, run, service)

    site.wait_for_end(run)
    if not hits:
        raise TimeoutError("the run was over before anybody was killed")
    site.check_books(run, service, unwritten=unwritten)

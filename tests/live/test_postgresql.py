"""The PostgreSQL column: the tests of the data layer, and a whole portal, on a real server."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from ingest.outcomes import Outcome
from ingest.rehearsal import serve_in_thread
from portal.config import BASE_DIR
from tests.live.postgresql import Cluster
from tests.live.stack import Stack, ask, make_environment, make_slug, run_stack, wait_for

pytestmark = pytest.mark.live

# Of these, everything that touches a table: pages, servers and the embedded engine included.
DATA_LAYER = ["tests/ingest", "tests/portal", "tests/search", "tests/analytics"]
INNER_SECONDS = 900


def run_tests(cluster: Cluster, database: str, *paths: str) -> int:
    """Runs the tests in a process of its own on PostgreSQL; says how many passed."""
    environment = dict(os.environ)  # noqa: TID251 - for a child
    # What pytest-xdist and pytest-cov tell their workers is not for this one.
    for name in [name for name in environment if name.startswith(("PYTEST_", "COV_"))]:
        del environment[name]
    # Of its own for each try: what was made for the tests of a first one is not gone with it.
    environment["DATABASE_URL"] = cluster.create_database(f"{database}-{secrets.token_hex(3)}")
    command = [sys.executable, "-m", "pytest", "-q", *paths, "-p", "tests.live.database_tests"]
    command += ["-p", "no:cacheprovider", "-m", "not live and not browser and not faults"]
    # The database is gone with its server, also one that a test left a session in.
    command += ["--reuse-db"]
    command += ["--reruns", "1", "--only-rerun", "Timeout"]  # as without a database of its own
    try:
        done = subprocess.run(
            command,
            cwd=BASE_DIR,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=INNER_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        pytest.fail(f"not finished after {INNER_SECONDS} s:\n{output[-10_000:]}")
    output = f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
    assert done.returncode == 0, f"{output}\n--- server\n{cluster.read_log()}"
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, output
    return int(passed[1])


def test_the_data_layer_keeps_its_promises_on_postgresql(postgresql: Cluster) -> None:
    paths = [path for path in DATA_LAYER if (BASE_DIR / path).exists()]
    assert run_tests(postgresql, "same", *paths) > 500


def test_what_only_a_server_with_many_writers_can_break(postgresql: Cluster) -> None:
    assert run_tests(postgresql, "only", "tests/live/postgresql_cases.py") >= 20


def manage(cluster: Cluster, url: str, tmp_path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=make_environment(tmp_path, 1, DATABASE_URL=url),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr + cluster.read_log()
    return done.stdout + done.stderr


def test_migrations_lead_from_nothing_to_the_models_and_back(
    postgresql: Cluster, tmp_path: Path
) -> None:
    url = postgresql.create_database("steps")
    manage(postgresql, url, tmp_path, "migrate", "--verbosity", "0")
    assert "No changes" in manage(postgresql, url, tmp_path, "makemigrations", "--check")
    manage(postgresql, url, tmp_path, "check", "--database", "default")
    manage(postgresql, url, tmp_path, "migrate", "ingest", "zero", "--verbosity", "0")
    manage(postgresql, url, tmp_path, "migrate", "--verbosity", "0")
    with postgresql.connect("steps") as connection:
        connection.execute(
            "INSERT INTO ingest_errorlog (error_type, outcome, message, url, path, trace,"
            " correlation_id, occurred_at) VALUES ('x', '', 'x', '', '', '', '', now())"
        )
        kinds = connection.execute("SELECT kind FROM ingest_outbox").fetchall()
    assert kinds == [("error",)]


def test_an_address_may_set_options_of_its_own(postgresql: Cluster, tmp_path: Path) -> None:
    url = postgresql.create_database("options") + "?connect_timeout=3&options=-c%20work_mem=5MB"
    show = (
        "from django.db import connection as c; cursor = c.cursor();"
        "cursor.execute('SHOW work_mem'); print(cursor.fetchone()[0])"
    )
    assert "5MB" in manage(postgresql, url, tmp_path, "shell", "-v0", "-c", show)


@pytest.fixture(scope="module")
def portal(postgresql: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = postgresql.create_database("portal")
    with run_stack(tmp_path_factory.mktemp("portal"), DATABASE_URL=url) as stack:
        yield stack


def test_a_run_outlives_a_crash_of_its_database(portal: Stack, postgresql: Cluster) -> None:
    slug = make_slug("calm")
    with serve_in_thread(profile="calm", count=900) as upstream:
        portal.create_source(
            slug, f"{upstream}/cities/{{id}}", count=900, limits={"per_second": 150}
        )
        run = portal.start_run(slug)
        wait_for(
            "some answers",
            lambda: portal.read_run(run)["outcomes"][Outcome.DELIVERED] >= 100,
            timeout_seconds=30,
        )
        postgresql.stop(is_crash=True)
        try:
            down = ask(portal.port, "/health/ready")
            assert (down.status, down.body["checks"]["database"]["ok"]) == (503, False)
            assert ask(portal.port, "/health").status == 200
            time.sleep(2)
        finally:
            postgresql.start()
        ended = portal.wait_for_run(run, timeout_seconds=90)
    assert ended["state"] == "complete"
    assert ended["outcomes"][Outcome.DELIVERED] == ended["planned"] == 900
    portal.wait_until_indexed()
    books = portal.reconcile(run)
    assert (books["unknown"], books["stored"], books["indexed"]) == (0, 900, 900)
    assert books["verdict"]["complete"]


def test_many_callers_at_once_share_the_connections_of_few_threads(
    portal: Stack, postgresql: Cluster
) -> None:
    statuses: list[int] = []

    def call() -> None:
        for _ in range(4):
            statuses.append(portal.api("GET", "/api/runs/").status)

    threads = [threading.Thread(target=call) for _ in range(3 * settings.WEB_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4 * len(threads)
    # One for each thread of the web process, and at most one for each worker while a task runs.
    most = settings.WEB_THREADS + 4
    few: Callable[[], bool] = lambda: count_sessions(postgresql, portal) <= most  # noqa: E731
    wait_for("the sessions to end", few, timeout_seconds=15)


def count_sessions(cluster: Cluster, stack: Stack) -> int:
    database = stack.environment["DATABASE_URL"].rpartition("/")[2]
    with cluster.connect() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database]
        ).fetchone()
    assert row is not None
    return int(row[0])

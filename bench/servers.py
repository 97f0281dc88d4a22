"""Servers that benchmarks start for themselves and leave nothing of."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.live.postgresql import Cluster, PostgresqlMissing, run_cluster

__all__ = ["Cluster", "Missing", "find_postgresql", "run_elasticsearch", "try_elasticsearch"]


class Missing(Exception):
    """This machine does not have the server; the text says why."""


NODE = Path(__file__).resolve().parent.parent / "elasticsearch" / "node.py"
FETCH_SECONDS = 600  # 99 MB, once on a machine


def call_node(name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(NODE), name, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )


@contextlib.contextmanager
def run_elasticsearch(*, heap: str = "512m") -> Iterator[str]:
    """Gives the URL of a node of its own. Raises Missing."""
    fetched = call_node("fetch")
    if fetched.returncode == os.EX_UNAVAILABLE:
        raise Missing(fetched.stderr.strip().splitlines()[-1])
    # As root, the server runs as an account that must be able to enter the folder.
    folder = Path(tempfile.mkdtemp(prefix="gleaner-bench-elasticsearch-"))
    folder.chmod(0o755)
    try:
        started = call_node("start", "--port", "0", "--data-dir", folder / "node", "--heap", heap)
        if started.returncode:
            raise Missing(started.stderr.strip())
        yield started.stdout.strip()
    finally:
        call_node("stop", "--data-dir", folder / "node")
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def try_elasticsearch() -> Iterator[str | Missing]:
    """The URL, or why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            found: str | Missing = stack.enter_context(run_elasticsearch())
        except Missing as error:
            found = error
        yield found


@contextlib.contextmanager
def find_postgresql() -> Iterator[Cluster | Missing]:
    """A private cluster, or why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            found: Cluster | Missing = stack.enter_context(run_cluster())
        except PostgresqlMissing as error:
            found = Missing(str(error))
        yield found

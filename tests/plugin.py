"""Gives the test process an environment of its own before Django reads any setting."""

import atexit
import os
import shutil
import tempfile
from typing import Any

DATA_DIR = tempfile.mkdtemp(prefix="gleaner-test-")
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)
os.environ["PORTAL_DATA_DIR"] = DATA_DIR  # noqa: TID251 - set, before portal.config reads it
os.environ["PORTAL_ALLOW_PRIVATE_UPSTREAMS"] = "1"  # noqa: TID251


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tells why a test was tried again: where it passed then, nothing else would."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"tried again: {report.nodeid}")
        terminalreporter.line(report.longreprtext)

"""Gives the test process an environment of its own before Django reads any setting."""

import atexit
import os
import shutil
import tempfile

DATA_DIR = tempfile.mkdtemp(prefix="gleaner-test-")
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)
os.environ["PORTAL_DATA_DIR"] = DATA_DIR  # noqa: TID251 - set, before portal.config reads it
os.environ["PORTAL_ALLOW_PRIVATE_UPSTREAMS"] = "1"  # noqa: TID251

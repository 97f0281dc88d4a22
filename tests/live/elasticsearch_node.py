"""A real Elasticsearch for the tests of a session."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import Elasticsearch

from portal.config import BASE_DIR, read_index_settings
from search import engines
from search.engines.base import Engine
from search.engines.elasticsearch import ElasticsearchEngine

NODE = BASE_DIR / "elasticsearch" / "node.py"
FETCH_SECONDS = 600  # 99 MB, once on a machine
OPEN_SECONDS = 5.0


class NodeMissing(Exception):
    """This machine has no Elasticsearch and cannot get one."""


@dataclass
class Node:
    """A running server; `client` is the hand that meddles with it."""

    folder: Path
    url: str
    client: Elasticsearch

    @property
    def pid(self) -> int:
        return int((self.folder / "logs" / "node.pid").read_text())


def call_node(name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(NODE), name, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )


def check_started(started: subprocess.CompletedProcess[str]) -> None:
    """Raises TimeoutError for a server that is there and says nothing."""
    if "The node does not answer" in started.stderr:
        raise TimeoutError(started.stderr)
    assert started.returncode == 0, started.stderr


@contextlib.contextmanager
def run_node(*options: str | Path, password: str = "", port: int = 0) -> Iterator[Node]:
    """A server of its own for the length of the block. Raises NodeMissing."""
    fetched = call_node("fetch")
    if fetched.returncode == os.EX_UNAVAILABLE:
        raise NodeMissing(fetched.stderr.strip().splitlines()[-1])
    # Not pytest's own folder: as root, the server runs as an account that may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="gleaner-elasticsearch-"))
    folder.chmod(0o755)
    given: list[str | Path] = [*options, "--data-dir", folder / "node", "--heap", "256m"]
    if password:
        (folder / "password").write_text(password)
        given += ["--password-file", folder / "password"]
    try:
        started = call_node("start", "--port", str(port), *given)
        check_started(started)
        url = started.stdout.strip()
        login = ("elastic", password) if password else None
        with Elasticsearch(url, request_timeout=30, basic_auth=login) as client:
            yield Node(folder / "node", url, client)
    finally:
        call_node("stop", "--data-dir", folder / "node")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The server that most tests share; none here is a skip, with CI=true a failure."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(run_node())
        except NodeMissing as error:
            if os.environ.get("CI", "").lower() == "true":  # noqa: TID251
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield running


def make_prefix() -> str:
    """Names the indexes of one test, so that none sees those of another."""
    return f"test-{os.getpid()}-{secrets.token_hex(4)}"


MakeEngine = Callable[..., ElasticsearchEngine]


@pytest.fixture
def make_engine(node: Node) -> Iterator[MakeEngine]:
    """Engines of one prefix, each as if in a process of its own; `url` and settings can differ."""
    prefix = make_prefix()

    def make(url: str = node.url, **settings: Any) -> ElasticsearchEngine:
        return ElasticsearchEngine(
            {"hosts": [url]},
            prefix=prefix,
            index_settings={**read_index_settings(), **settings},
            open_seconds=OPEN_SECONDS,
            closing_seconds=0,
        )

    yield make
    remove_indexes(node, prefix)


@pytest.fixture
def portal_on_elasticsearch(node: Node, settings: Any) -> Iterator[Callable[..., Engine]]:
    """Lets the portal of this process use the server; call it with another URL to move it there."""
    prefix = make_prefix()

    def use(url: str = node.url) -> Engine:
        settings.ELASTICSEARCH_URL = url
        settings.ELASTICSEARCH_PREFIX = prefix
        settings.ELASTICSEARCH_DSL = {"default": {"hosts": [url]}}
        # The machine of a test may be busy; the budget of a query has tests of its own.
        settings.SEARCH_TIMEOUT_SECONDS = OPEN_SECONDS
        engines._make_elasticsearch.cache_clear()
        return engines.get_engine()

    use()
    yield use
    engines._make_elasticsearch.cache_clear()
    remove_indexes(node, prefix)


def remove_indexes(node: Node, prefix: str) -> None:
    found = node.client.indices.get(index=f"{prefix}*", features="aliases")
    for index in found:
        node.client.indices.delete(index=index, ignore_unavailable=True)

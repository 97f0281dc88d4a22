"""Fixtures of the live tests: one portal for the tests that leave it in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.live.postgresql import Cluster, PostgresqlMissing, run_cluster
from tests.live.stack import Stack, run_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis, web, both workers and beat, for real; an administrator is signed in."""
    with run_stack(tmp_path_factory.mktemp("portal")) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A private PostgreSQL server; without the programs a skip, with CI=true a failure."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(run_cluster())
        except PostgresqlMissing as error:
            if os.environ.get("CI", "").lower() == "true":  # noqa: TID251
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield cluster

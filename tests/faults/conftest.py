"""Fixtures of the fault tests: one portal per database, whose processes are killed and replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.faults.site import Site, open_site
from tests.live.postgresql import Cluster, PostgresqlMissing, run_cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, Any]:
    """A failure shows what the portal's processes have said."""
    report = yield
    for value in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(value, Site):
            report.sections.append(("The portal", value.describe()))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A private PostgreSQL server; without the programs a skip, with CI=true a failure."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(run_cluster(synchronous_commit="on"))
        except PostgresqlMissing as error:
            if os.environ.get("CI", "").lower() == "true":  # noqa: TID251
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield running


@pytest.fixture(scope="session")
def sqlite_portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("sqlite")) as site:
        yield site


@pytest.fixture(scope="session")
def postgresql_portal(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Site]:
    url = cluster.create_database("faults")
    with open_site(tmp_path_factory.mktemp("postgresql"), DATABASE_URL=url) as site:
        yield site


@pytest.fixture
def sqlite_site(sqlite_portal: Site) -> Site:
    sqlite_portal.heal()
    return sqlite_portal


@pytest.fixture
def postgresql_site(postgresql_portal: Site) -> Site:
    postgresql_portal.heal()
    return postgresql_portal


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest) -> Site:
    """The same test on both databases."""
    found: Site = request.getfixturevalue(f"{request.param}_site")
    return found

"""docker-compose.yml says what the portal understands, and starts things in order."""

from __future__ import annotations

import re

import pytest
import yaml

from portal.config import BASE_DIR, Environment, read_config
from portal.settings import CELERY_TASK_QUEUES

TEXT = (BASE_DIR / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]
PORTAL = ("setup", "web", "worker", "beat")
OTHERS = ("db", "redis", "search")


def test_the_services_have_the_names_that_people_were_promised():
    assert set(SERVICES) == {*PORTAL, *OTHERS}
    assert "127.0.0.1:9200:9200" in SERVICES["search"]["ports"]


@pytest.mark.parametrize("name", PORTAL)
def test_every_variable_is_one_that_the_portal_reads(name, tmp_path):
    environment = Environment({"PORTAL_DATA_DIR": str(tmp_path)})
    read_config(environment)
    given = SERVICES[name]["environment"].keys()
    assert given <= environment.variables.keys()
    assert {"DATABASE_URL", "REDIS_URL", "ELASTICSEARCH_URL"} <= given


def test_the_portal_waits_until_its_services_are_well_and_set_up():
    for name in PORTAL:
        wanted = {other: SERVICES[name]["depends_on"][other]["condition"] for other in OTHERS}
        assert set(wanted.values()) == {"service_healthy"}, name
    for name in ("web", "worker", "beat"):
        setup = SERVICES[name]["depends_on"]["setup"]
        assert setup["condition"] == "service_completed_successfully"
    assert all("healthcheck" in SERVICES[name] for name in SERVICES if name != "setup")


def test_the_web_is_asked_for_its_health_as_the_operator_was_promised():
    check = SERVICES["web"]["healthcheck"]
    assert (check["interval"], check["timeout"], check["retries"]) == ("30s", "10s", 5)
    assert "/health" in check["test"][-1]


def test_the_worker_serves_every_queue():
    assert len(CELERY_TASK_QUEUES) == 3
    assert " -Q" not in SERVICES["worker"]["command"]


def test_no_secret_has_a_default():
    secrets = re.findall(r"\$\{((?:SECRET|PORTAL_ENCRYPTION|POSTGRES)_\w+)(:.)", TEXT)
    assert {name for name, _ in secrets} == {
        *("SECRET_KEY", "PORTAL_ENCRYPTION_KEYS", "POSTGRES_PASSWORD")
    }
    assert {how for _, how in secrets} == {":?"}
    example = (BASE_DIR / ".env.example").read_text(encoding="utf-8")
    for name, _ in secrets:
        assert f"\n{name}=\n" in example


def test_the_client_and_the_server_are_of_one_line():
    import elasticsearch

    _, _, version = SERVICES["search"]["image"].rpartition(":")
    assert int(version.split(".")[0]) == elasticsearch.__version__[0]

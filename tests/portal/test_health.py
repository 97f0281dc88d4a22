from __future__ import annotations

import time

import pytest
import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.test import Client

from ingest.models import ErrorLog
from portal import health, heartbeat

GOOD_ENGINE = {"ok": True, "engine": "tantivy", "detail": ""}


@pytest.fixture
def engine(monkeypatch):
    def set_status(status):
        monkeypatch.setattr("search.services.engine_status", lambda: status)

    set_status(GOOD_ENGINE)
    return set_status


@pytest.fixture
def workers():
    heartbeat.beat("fetch@here", ["fetch"])
    heartbeat.beat("index@here", ["index", "maintenance"])


@pytest.fixture
def no_redis(monkeypatch, tmp_path):
    """A client of a Redis that is not there."""
    gone = redis.Redis.from_url(f"unix://{tmp_path}/gone.sock")
    monkeypatch.setattr(heartbeat, "_client", lambda: gone)


def test_liveness_asks_no_database(visitor_without_database):
    response = visitor_without_database.get("/health")

    assert response.status_code == 200
    assert response.json() == {"status": "ok"}
    assert response["Cache-Control"] == "no-store"


@pytest.fixture
def visitor_without_database():
    return Client(raise_request_exception=False)


@pytest.mark.parametrize("host", ["10.1.2.3", "10.1.2.3:8000", "web1", "evil.example"])
def test_a_probe_needs_no_host_name(visitor_without_database, host):
    assert visitor_without_database.get("/health", headers={"Host": host}).status_code == 200


def test_health_is_not_redirected_where_everything_else_is(visitor_without_database, settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_REDIRECT_EXEMPT = [r"^health(/ready)?/?$"]

    assert visitor_without_database.get("/health").status_code == 200
    assert visitor_without_database.get("/accounts/login/").status_code == 301


def test_head_answers_and_other_methods_do_not(visitor):
    assert visitor.head("/health").status_code == 200
    response = visitor.post("/health")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.django_db
def test_ready_names_every_part(visitor, engine, workers):
    response = visitor.get("/health/ready")

    body = response.json()
    assert response.status_code == 200, body
    assert body["status"] == "ok"
    assert set(body["checks"]) == {"database", "redis", "search", "workers"}
    assert all(part["ok"] for part in body["checks"].values())
    assert body["checks"]["workers"]["queues"] == {"fetch": 1, "index": 1, "maintenance": 1}


@pytest.mark.django_db
def test_a_queue_without_a_living_worker_is_named(visitor, engine):
    heartbeat.beat("fetch@here", ["fetch", "maintenance"])

    response = visitor.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["checks"]["workers"]["detail"] == "no worker for: index"


@pytest.mark.django_db
def test_a_probe_that_comes_too_early_is_no_error(visitor, engine):
    assert visitor.get("/health/ready").status_code == 503
    assert not ErrorLog.objects.exists()

    assert visitor.post("/health/ready").status_code == 405
    assert ErrorLog.objects.get().status_code == 405


@pytest.mark.django_db
def test_a_worker_that_is_not_heard_of_any_more_does_not_count(visitor, engine, workers):
    members = heartbeat._members(0)
    long_ago = time.time() - heartbeat.ALIVE_SECONDS - 1
    heartbeat._client().zadd(heartbeat._KEY, dict.fromkeys(members, long_ago))

    assert visitor.get("/health/ready").status_code == 503


@pytest.mark.django_db
def test_a_worker_that_signs_off_does_not_count(visitor, engine, workers):
    heartbeat.sign_off("fetch@here")

    assert heartbeat.served_queues() == {"index": 1, "maintenance": 1}


@pytest.mark.django_db
def test_a_dead_engine_is_not_ready(visitor, engine, workers):
    engine({"ok": False, "engine": "elasticsearch", "detail": "http://user:hunter2@search:9200"})

    response = visitor.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["checks"]["search"] == {"ok": False, "detail": "elasticsearch"}
    assert b"hunter2" not in response.content


@pytest.mark.django_db
def test_the_reason_of_a_dead_engine_is_told_and_when_to_ask_again(visitor, engine, workers):
    engine({"ok": False, "engine": "elasticsearch", "detail": "hunter2", "reason": "It is ill."})

    response = visitor.get("/health/ready")

    assert response.json()["checks"]["search"]["detail"] == "elasticsearch: It is ill."
    assert int(response["Retry-After"]) > 0
    assert b"hunter2" not in response.content


@pytest.mark.django_db
def test_a_dead_redis_is_not_ready(visitor, engine, no_redis):
    response = visitor.get("/health/ready")

    checks = response.json()["checks"]
    assert response.status_code == 503
    assert checks["redis"] == {"ok": False, "detail": "out of reach"}
    assert checks["workers"]["ok"] is False
    assert checks["database"]["ok"] is True


@pytest.mark.django_db
def test_a_dead_database_is_not_ready(visitor, engine, workers, monkeypatch):
    def refuse():
        raise DatabaseError("password=hunter2")

    monkeypatch.setattr(connection, "cursor", refuse)
    part = health.check_database()
    monkeypatch.undo()

    assert part == {"ok": False, "detail": "out of reach"}


def test_a_worker_beats_on_although_redis_is_gone(no_redis):
    heartbeat.beat("fetch@here", ["fetch"])
    heartbeat.sign_off("fetch@here")


def test_every_queue_of_the_settings_is_checked():
    assert {queue.name for queue in settings.CELERY_TASK_QUEUES} == {
        "fetch", "index", "maintenance",
    }  # fmt: skip

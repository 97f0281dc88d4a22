"""Liveness and readiness, for load balancers and people."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse

from portal import heartbeat

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5


def alive(request: HttpRequest) -> HttpResponse:
    """The process answers. Asks nobody else: a dead database is no reason to restart the web."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    return _answer({"status": "ok"}, status=200)


def ready(request: HttpRequest) -> HttpResponse:
    """Whether every part that the portal stands on works: 200 or 503, each part by name."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    parts = {name: check() for name, check in CHECKS.items()}
    is_ready = all(part["ok"] for part in parts.values())
    body = {"status": "ok" if is_ready else "unavailable", "checks": parts}
    response = _answer(body, status=200 if is_ready else 503)
    if not is_ready:
        response["Retry-After"] = str(RETRY_SECONDS)
    return response


def check_database() -> dict[str, Any]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except DatabaseError as error:
        logger.warning("The database is out of reach: %s", error)
        return {"ok": False, "detail": "out of reach"}
    return {"ok": True, "detail": connection.vendor}


def check_redis() -> dict[str, Any]:
    try:
        heartbeat.ping()
    except redis.RedisError as error:
        logger.warning("Redis is out of reach: %s", error)
        return {"ok": False, "detail": "out of reach"}
    return {"ok": True, "detail": "redis"}


def check_search() -> dict[str, Any]:
    from search import services

    try:
        status = services.engine_status()
    except Exception as error:  # the boundary of a check: whatever it is, search is not ready
        logger.warning("The search engine did not tell its state: %r", error)
        return {"ok": False, "detail": "out of reach"}
    # Only the reason is fit for everybody's eyes: a detail may hold addresses and secrets.
    said = [status["engine"], status.get("reason", ""), status.get("hint", "")]
    told = [str(part) for part in said if part]
    return {"ok": bool(status["ok"]), "detail": ": ".join(told)}


def check_workers() -> dict[str, Any]:
    """Every queue must have a living worker: records that nobody indexes are not searchable."""
    try:
        served = heartbeat.served_queues()
    except redis.RedisError:
        return {"ok": False, "detail": "out of reach"}
    queues = {queue.name: served.get(queue.name, 0) for queue in settings.CELERY_TASK_QUEUES}
    unserved = sorted(name for name, workers in queues.items() if not workers)
    detail = f"no worker for: {', '.join(unserved)}" if unserved else "all queues are served"
    return {"ok": not unserved, "detail": detail, "queues": queues}


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "database": check_database,
    "redis": check_redis,
    "search": check_search,
    "workers": check_workers,
}
VIEWS: dict[str, Callable[[HttpRequest], HttpResponse]] = {
    "/health": alive,
    "/health/ready": ready,
}


def find_view(request: HttpRequest) -> Callable[[HttpRequest], HttpResponse] | None:
    return VIEWS.get(request.path_info.rstrip("/"))


def is_probe(request: HttpRequest) -> bool:
    return find_view(request) is not None


def _answer(body: dict[str, Any], *, status: int) -> HttpResponse:
    response = JsonResponse(body, status=status, headers={"Cache-Control": "no-store"})
    response.headers["Content-Length"] = str(len(response.content))
    return response

"""A source that shuts us out, and what happens to its runs when its keys or proxies change."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.test import Client

from ingest import runs, services, slices
from ingest.errors import RunActive, SourceChanged
from ingest.models import ErrorLog, Request, Run, RunEvent, Source
from ingest.outcomes import Outcome, RunState
from ingest.secrets import unseal
from ingest.selectors import count_outcomes, describe_run
from tests.ingest.factories import UserFactory
from tests.ingest.test_pipeline import drive, good, make_source, start
from tests.ingest.test_slices import sent, workers
from tests.ingest.upstream import ScriptedUpstream, scripted_upstream
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def key(secret: str, name: str = "X-Api-Key") -> dict[str, str]:
    return {"in": "header", "name": name, "secret": secret}


class Guarded:
    """Lets those in whose key it knows."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)

    async def __call__(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Api-Key") in self.known:
            return good(request)
        return web.json_response({"error": "your key was banned"}, status=403)


def keys_seen(upstream: ScriptedUpstream) -> Counter[str]:
    return Counter(headers.get("X-Api-Key", "") for _, headers in upstream.seen)


def blocked_run(upstream: ScriptedUpstream, **parts: Any) -> Run:
    source = make_source(
        upstream.url, stop=60, request={"api_key": key("old-key-1")}, limits={"concurrency": 1}
    )
    run = drive(start(source))
    assert run.state == RunState.BLOCKED
    return run


def test_a_block_is_an_alert_with_the_answer_that_shows_it():
    with scripted_upstream(Guarded()) as upstream:
        run = blocked_run(upstream)
        assert sent(upstream) == 2  # a marker counts from the second denial on
    alert = RunEvent.objects.get(run=run, kind="alert")
    assert alert.details is not None
    assert (alert.details["key"], alert.details["status"]) == ("2", 403)
    assert alert.details["marker"] == "banned"
    assert "your key was banned" in alert.details["first_characters"]
    row = Request.objects.get(run=run, key="60")
    assert (row.outcome, row.attempts) == (Outcome.BLOCKED, 0)
    assert "request 2: 403 Forbidden" in (row.evidence or {})["reason"]
    client = Client()
    client.force_login(UserFactory())
    page = client.get(f"/runs/{run.pk}/").content.decode()
    assert "data-alert" in page
    assert "your key was banned" in page
    log = client.get(f"/runs/{run.pk}/log.csv")
    assert "request 2: 403 Forbidden" in b"".join(log).decode()


def test_another_key_lets_the_blocked_run_go_on_and_says_why():
    upstream_side = Guarded("new-key-1")
    with scripted_upstream(upstream_side) as upstream:
        run = blocked_run(upstream)
        services.update_source(source=run.source, patch={"request": {"api_key": key("new-key-1")}})
        run.refresh_from_db()
        assert run.state == RunState.FETCHING
        assert "keys or proxies were replaced" in run.events.latest("seq").message
        assert count_outcomes(run)["blocked"] == 58  # they keep their outcome until they are sent
        run = drive(run)
    assert run.state == RunState.COMPLETE
    assert keys_seen(upstream) == {"old-key-1": 2, "new-key-1": 60}


def test_a_patch_that_leaves_keys_and_proxies_alone_reopens_nothing():
    with scripted_upstream(Guarded()) as upstream:
        run = blocked_run(upstream)
        services.update_source(source=run.source, patch={"limits": {"per_second": 7}})
        services.update_source(source=run.source, patch={"request": {"api_key": key("old-key-1")}})
        run.refresh_from_db()
        assert run.state == RunState.BLOCKED


@pytest.mark.parametrize(
    "patch",
    [
        {"proxies": ["http://127.0.0.1:9"]},
        {"headers": {"Authorization": "Bearer abcdefgh"}},
        {"api_key": [key("old-key-1"), key("old-key-2")]},
        {"api_key": None},
    ],
    ids=["proxies", "a secret header", "a second key", "no key"],
)
def test_whatever_lets_us_in_reopens_the_blocked_run_when_it_changes(patch: dict[str, Any]):
    with scripted_upstream(Guarded()) as upstream:
        run = blocked_run(upstream)
    services.update_source(source=run.source, patch={"request": patch})
    run.refresh_from_db()
    assert run.state == RunState.FETCHING


def test_only_the_last_run_is_reopened_and_only_where_none_is_active():
    upstream_side = Guarded()
    with scripted_upstream(upstream_side) as upstream:
        first = blocked_run(upstream)
        second = start(first.source)
        patch = {"request": {"api_key": key("new-key-1")}}
        services.update_source(source=first.source, patch=patch)
        runs.cancel_run(second.pk, by="the test")
        services.update_source(source=first.source, patch={"request": {"api_key": key("k-3")}})
    first.refresh_from_db()
    assert first.state == RunState.BLOCKED


def test_keys_that_are_replaced_during_a_run_count_from_the_next_slice_on(settings: Any):
    settings.SLICE_SECONDS = 1
    with scripted_upstream(Guarded("old-key-1", "new-key-1", "new-key-2")) as upstream:
        source = make_source(
            upstream.url,
            stop=60,
            request={"api_key": key("old-key-1"), "headers": {"X-Token": "abcdefgh"}},
            limits={"per_second": 20},
        )
        run = start(source)
        with workers(1, run.pk):
            wait_until(lambda: sent(upstream) > 3)
            services.update_source(
                source=source,
                patch={
                    "request": {
                        "api_key": [key("new-key-1"), key("new-key-2")],
                        "headers": {"X-Token": None, "Authorization": "Bearer abcdefgh"},
                    }
                },
            )
            wait_until(lambda: Run.objects.get(pk=run.pk).is_finished)
    run.refresh_from_db()
    assert run.state == RunState.COMPLETE
    used = keys_seen(upstream)
    assert set(used) == {"old-key-1", "new-key-1", "new-key-2"}
    assert abs(used["new-key-1"] - used["new-key-2"]) <= 1
    last = upstream.seen[-1][1]
    assert last["Authorization"] == "Bearer abcdefgh"
    assert "X-Token" not in last
    assert not ErrorLog.objects.exists()


def test_a_secret_is_not_sent_to_the_host_of_a_run_that_the_source_has_left():
    with scripted_upstream(Guarded()) as upstream, scripted_upstream(Guarded()) as elsewhere:
        source = make_source(upstream.url, request={"api_key": key("old-key-1")})
        run = start(source)
        move = {"request": {"url": elsewhere.url + "/{id}", "api_key": key("new-key-1")}}
        with pytest.raises(RunActive):
            services.update_source(source=source, patch=move)
        run = drive(run)
        services.update_source(source=source, patch=move)
        run.refresh_from_db()
        assert run.state == RunState.BLOCKED
        with pytest.raises(SourceChanged):
            runs.reopen_for_sweep(run.pk)
    assert elsewhere.seen == []
    assert "new-key-1" not in keys_seen(upstream)


def test_the_encryption_keys_are_rotated_while_a_run_goes_on(settings: Any, capsys: Any):
    settings.SLICE_SECONDS = 1
    old = settings.ENCRYPTION_KEYS
    new = (Fernet.generate_key().decode(),)
    with scripted_upstream(Guarded("old-key-1")) as upstream:
        source = make_source(
            upstream.url, stop=50, request={"api_key": key("old-key-1")}, limits={"per_second": 20}
        )
        run = start(source)
        with workers(1, run.pk):
            wait_until(lambda: sent(upstream) > 3)
            settings.ENCRYPTION_KEYS = (*new, *old)
            call_command("rotate_keys")
            settings.ENCRYPTION_KEYS = new
            wait_until(lambda: Run.objects.get(pk=run.pk).is_finished)
    run.refresh_from_db()
    assert run.state == RunState.COMPLETE
    assert "1 sources are sealed with the first key" in capsys.readouterr().out
    assert "old-key-1" in unseal(Source.objects.get().sealed_secrets).values()
    settings.ENCRYPTION_KEYS = old
    with pytest.raises(CommandError, match="things"):
        call_command("rotate_keys")


def test_a_worker_without_the_right_encryption_key_ends_no_run(settings: Any):
    with scripted_upstream(Guarded("old-key-1")) as upstream:
        run = start(make_source(upstream.url, request={"api_key": key("old-key-1")}))
        right = settings.ENCRYPTION_KEYS
        settings.ENCRYPTION_KEYS = (Fernet.generate_key().decode(),)
        for _ in range(5):
            slices.run_slice(run.pk)
        run.refresh_from_db()
        assert not run.is_finished
        assert run.events.filter(kind="alert").count() == 1
        settings.ENCRYPTION_KEYS = right
        assert drive(run).state == RunState.COMPLETE


def test_the_rate_of_a_swept_run_counts_only_the_time_that_it_was_at_work():
    is_mended = False

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/1" and not is_mended:
            return web.Response(status=404)
        return good(request)

    with scripted_upstream(answer) as upstream:
        run = drive(start(make_source(upstream.url)))
        first = run.active_seconds
        assert first > 0
        time.sleep(1.0)
        is_mended = True
        runs.reopen_for_sweep(run.pk)
        run = drive(run)
    assert run.finished_at is not None
    assert run.started_at is not None
    gone = (run.finished_at - run.started_at).total_seconds()
    assert first < run.active_seconds < gone - 0.9
    assert describe_run(run)["rate_per_second"] == round(20 / run.active_seconds, 3)

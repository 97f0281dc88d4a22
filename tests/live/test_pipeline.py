"""From a token to a search hit, over HTTP, through real Celery workers and a real Redis."""

from __future__ import annotations

import pytest

from ingest.outcomes import Outcome
from ingest.rehearsal import serve_in_thread
from tests.ingest.stopwatch import watch_lag
from tests.live.stack import Stack, ask_upstream, find_port, gaps_of, make_slug

pytestmark = pytest.mark.live


def test_a_run_against_an_unruly_upstream_tells_what_the_upstream_tells(stack: Stack) -> None:
    slug = make_slug("unruly")
    with serve_in_thread(profile="unruly", count=400) as upstream:
        created = stack.create_source(slug, f"{upstream}/cities/{{id}}", count=400)
        assert created.status == 201, created.body
        run = stack.wait_for_run(stack.start_run(slug))
        truth = ask_upstream(upstream, "/truth")
    books = stack.reconcile(run["id"])

    assert run["state"] == "incomplete"  # the upstream keeps a few cities back for good
    assert run["planned"] == books["planned"] == 400
    assert sum(run["outcomes"].values()) == 400
    assert run["outcomes"] == books["outcomes"] == truth["outcomes"] == truth["expected_outcomes"]
    assert books["unknown"] == 0
    assert gaps_of(books) == truth["gaps"]
    assert books["stored"] == books["distinct_keys"] == truth["outcomes"]["delivered"]
    assert all(gap["reason"] and str(gap["key"]) in gap["url"] for gap in books["missing"])


def test_the_upstreams_limits_and_waits_are_kept(stack: Stack) -> None:
    slug = make_slug("paced")
    with serve_in_thread(profile="unruly", count=300) as upstream, watch_lag() as lag:
        stack.create_source(slug, f"{upstream}/cities/{{id}}", count=300, limits={"per_second": 60})
        stack.wait_for_run(stack.start_run(slug))
        truth = ask_upstream(upstream, "/truth")
    # What came while the upstream was held up is noted after it, beside what comes then.
    assert truth["requests"]["peak_per_second"] <= 60 * (1 + lag())
    assert truth["requests"]["peak_in_flight"] <= 20
    assert truth["waits"]["named"] > 0
    assert truth["waits"]["violated"] == 0
    assert truth["waits"]["still_open"] == 0


def test_what_was_delivered_is_found_with_a_typing_mistake(stack: Stack) -> None:
    slug = make_slug("calm")
    with serve_in_thread(profile="calm", count=150) as upstream:
        stack.create_source(slug, f"{upstream}/cities/{{id}}", count=150)
        run = stack.wait_for_run(stack.start_run(slug))
    assert run["state"] == "complete"
    assert run["outcomes"][Outcome.DELIVERED] == 150
    stack.wait_until_indexed()
    answer = stack.api("GET", f"/api/search/?q=istnbul&source={slug}").body
    assert answer["success"] is True
    assert answer["results"][0]["data"]["name"] in ("Istanbul", "İstanbul")
    books = stack.reconcile(run["id"])
    assert (books["stored"], books["indexed"]) == (150, 150)
    assert books["not_indexed"] == books["not_stored"] == books["missing"] == []


def test_answers_that_hurt_a_careless_client_are_outcomes(stack: Stack) -> None:
    slug = make_slug("hostile")
    with serve_in_thread(profile="hostile", count=40) as upstream:
        stack.create_source(
            slug,
            f"{upstream}/cities/{{id}}",
            count=40,
            limits={"max_body_bytes": 1_000_000},
        )
        run = stack.wait_for_run(stack.start_run(slug))
        truth = ask_upstream(upstream, "/truth")
    assert run["outcomes"] == truth["outcomes"]
    assert gaps_of(stack.reconcile(run["id"])) == truth["gaps"]


def test_an_unreachable_upstream_ends_in_failed_rows_and_an_incomplete_run(stack: Stack) -> None:
    slug = make_slug("nobody")
    nobody = f"http://127.0.0.1:{find_port()}/cities/{{id}}"
    stack.create_source(slug, nobody, count=30, retry={"attempts": 2, "sweeps": 0})
    run = stack.wait_for_run(stack.start_run(slug))
    assert run["state"] == "incomplete"
    assert run["outcomes"][Outcome.FAILED] == run["planned"] == 30
    books = stack.reconcile(run["id"])
    assert books["unknown"] == 0
    assert len(books["missing"]) == 30
    assert all(gap["reason"] for gap in books["missing"])


def test_a_wrong_configuration_is_refused_with_the_path_of_the_field(stack: Stack) -> None:
    refused = stack.create_source(
        "wrong", "http://127.0.0.1:1/{id}", count=10, limits={"per_second": "fast"}
    )
    assert refused.status == 400
    assert "limits.per_second" in refused.body["error"]["fields"]


def test_a_run_waits_while_no_worker_is_up_and_runs_later(stack: Stack) -> None:
    slug = make_slug("later")
    with serve_in_thread(profile="calm", count=20) as upstream:
        stack.create_source(slug, f"{upstream}/cities/{{id}}", count=20)
        stack.kill("worker-fetch")
        try:
            number = stack.start_run(slug)
            assert stack.read_run(number)["outcomes"][Outcome.PLANNED] == 20
        finally:
            stack.start("worker-fetch")
        run = stack.wait_for_run(number)
    assert run["state"] == "complete"
    assert run["outcomes"][Outcome.DELIVERED] == 20

"""The page of a run: started by its button, followed live, swept, and downloaded."""

from __future__ import annotations

import csv
import threading
from collections import Counter

import pytest
from aiohttp import web
from playwright.sync_api import Page, expect

from ingest.outcomes import Outcome
from ingest.rehearsal import serve_in_thread
from tests.browser.portal import Portal
from tests.browser.trouble import Trouble
from tests.ingest.upstream import scripted_upstream
from tests.live.stack import make_slug

pytestmark = pytest.mark.browser

READ_COUNTS = """
() => Object.fromEntries([...document.querySelectorAll("[data-count]")].map(
  (cell) => [cell.dataset.count, Number(cell.textContent.replaceAll(",", ""))]))
"""
# Also that it is still the same document: a page that reloads forgets the mark.
HAS_MOVED = """
(before) => window.isSameDocument
  && Number(document.querySelector("[data-done]").textContent) > before
"""


def read_number(page: Page, selector: str) -> int:
    return int(page.locator(selector).first.inner_text().replace(",", ""))


def test_a_run_started_by_the_button_is_followed_until_its_report(
    page: Page, portal: Portal, trouble: Trouble
) -> None:
    slug = make_slug("followed")
    with serve_in_thread(profile="calm", count=300) as upstream:
        portal.stack.create_source(
            slug, f"{upstream}/cities/{{id}}", count=300, limits={"per_second": 40}
        )
        page.goto(f"/sources/{slug}/")
        page.get_by_role("button", name="Start a run").click()
        page.wait_for_selector("[data-state=fetching]")
        page.evaluate("() => { window.isSameDocument = true }")
        page.wait_for_function(HAS_MOVED, arg=read_number(page, "[data-done]"))
        expect(page.get_by_role("heading", name="Nothing was left out")).to_be_visible(
            timeout=60_000
        )
    counts = page.evaluate(READ_COUNTS)
    assert list(counts) == [outcome.value for outcome in bar_order(counts)]
    assert counts[Outcome.DELIVERED] == 300
    assert sum(counts.values()) == 300
    assert read_number(page, "[data-sum]") == read_number(page, "[data-planned]") == 300
    expect(page.get_by_role("button", name="Fetch what is missing")).to_have_count(0)
    assert trouble.seen == []


def bar_order(counts: dict[str, int]) -> list[Outcome]:
    """The outcomes in the order of the page; all ten of them."""
    assert set(counts) == set(Outcome.values)
    return [Outcome(value) for value in counts]


def test_what_is_missing_is_fetched_by_the_button(
    page: Page, portal: Portal, trouble: Trouble
) -> None:
    slug, healed = make_slug("gap"), threading.Event()

    async def answer(request: web.Request) -> web.Response:
        key = request.path.strip("/")
        if key == "b" and not healed.is_set():
            return web.json_response({}, status=404)
        return web.json_response({"id": key, "name": f"The {key}"})

    with scripted_upstream(answer) as upstream:
        portal.create_values_source(slug, f"{upstream.url}/{{id}}", ["a", "b", "c"])
        run = portal.stack.wait_for_run(portal.stack.start_run(slug))
        page.goto(f"/runs/{run['id']}/")
        expect(page.get_by_role("heading", name="Not everything is here")).to_be_visible()
        expect(page.locator("#gaps tbody tr")).to_have_count(1)
        expect(page.locator("#gaps tbody tr")).to_contain_text("404")
        assert page.evaluate(READ_COUNTS)[Outcome.MISSING] == 1

        healed.set()
        page.get_by_role("button", name="Fetch what is missing").click()
        expect(page.get_by_role("heading", name="Nothing was left out")).to_be_visible(
            timeout=60_000
        )
    assert page.evaluate(READ_COUNTS)[Outcome.DELIVERED] == 3
    assert trouble.seen == []


def test_the_log_is_downloaded_with_a_line_for_each_request(page: Page, portal: Portal) -> None:
    page.goto(f"/runs/{portal.run_id}/")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Log (CSV)").click()
    with open(downloading.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    counted = Counter(row["outcome"] for row in rows)
    shown = page.evaluate(READ_COUNTS)
    assert counted == {outcome: count for outcome, count in shown.items() if count}
    assert len(rows) == read_number(page, "[data-planned]")
    assert len(counted) > 1

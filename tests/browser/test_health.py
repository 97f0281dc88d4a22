"""The dashboard *ingestion health*, drawn by Chromium."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser.portal import Portal
from tests.browser.trouble import Trouble

pytestmark = pytest.mark.browser


def open_dashboard(page: Page) -> FrameLocator:
    """The frame of the dashboard as soon as its charts hold data."""
    page.goto("/analytics/health/")
    frame = page.frame_locator("[data-dashboard]")
    expect(frame.locator("#outcomes .bars .point").first).to_be_attached()
    return frame


def test_the_dashboard_draws_with_the_data_of_the_runs(
    page: Page, portal: Portal, trouble: Trouble
) -> None:
    frame = open_dashboard(page)
    for chart, marks in (
        ("outcomes", ".bars .point path"),
        ("throughput", ".scatterlayer .trace"),
        ("latency", ".scatterlayer .trace"),
        ("completeness", ".bars .point path"),
    ):
        expect(frame.locator(f"#{chart} {marks}").first).to_be_attached()
    legend = frame.locator("#outcomes .legendtext").all_text_contents()
    assert {"delivered", "empty", "malformed", "missing", "denied", "failed"} <= set(legend)
    expect(frame.locator("#completeness")).to_contain_text("cities")
    share = re.compile(r"98(\.\d)? %, 12 missing")
    expect(frame.locator("#completeness")).to_contain_text(share)

    sent = frame.locator("#totals div", has_text="Requests sent").locator("dd").inner_text()
    page.get_by_text("The numbers as tables").click()
    expect(page.get_by_role("row", name="All requests sent").get_by_role("cell")).to_have_text(sent)
    assert int(sent.replace(",", "")) >= 600
    assert trouble.seen == []


def test_a_choice_in_the_dashboard_becomes_the_address_of_the_page(
    page: Page, portal: Portal, trouble: Trouble
) -> None:
    frame = open_dashboard(page)
    frame.get_by_text("7 days").click()
    page.wait_for_url(f"{portal.origin}/analytics/health/?range=7d")
    page.reload()
    expect(frame.locator(".selected")).to_have_text("7 days")
    assert trouble.seen == []


def test_the_dashboard_follows_the_theme_of_the_page(page: Page, trouble: Trouble) -> None:
    frame = open_dashboard(page)
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    label = frame.locator("#outcomes .xtick text").first
    before = label.evaluate("(element) => getComputedStyle(element).fill")
    page.get_by_role("button", name="Dark or light").click()
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    expect(label).not_to_have_css("fill", before)
    assert trouble.seen == []

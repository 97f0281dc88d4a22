"""What holds for every page, in light and dark, on a desk and on a telephone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.accessibility import find_violations
from tests.browser.conftest import NewContext
from tests.browser.portal import Portal
from tests.browser.trouble import Trouble

pytestmark = pytest.mark.browser

DESK, TELEPHONE = 1440, 390
PAGES = {
    "home": "/",
    "search": "/search/",
    "search with hits": "/search/?q=istnbul",
    "search with errors": "/search/?kind=error&size=100",
    "search with a long word": "/search/?q=Llanfairpwllgwyngyll*",
    "sources": "/sources/",
    "new source": "/sources/new/",
    "source": "/sources/cities/",
    "runs": "/runs/",
    "run": "/runs/{run}/",
    "jobs": "/result/",
    "health": "/analytics/health/",
    "record": "/records/{record}/",
    "error": "/errors/{error}/",
    "password": "/accounts/password_change/",
    "admin": "/admin/",
}
SIGNED_OUT_PAGES = {
    "home": "/",
    "login": "/accounts/login/",
    "password reset": "/accounts/password_reset/",
}
# Dash's own components break these rules in their own markup; colours and names are still ours.
DASH_RULES = (
    "aria-allowed-attr",
    "aria-hidden-focus",
    "aria-input-field-name",
    "aria-prohibited-attr",
    "nested-interactive",
)
# Charts are drawn anew a moment after their frame has become narrower.
FIND_TOO_WIDE = """
async () => {
  const isTooWide = () => document.documentElement.scrollWidth > window.innerWidth;
  for (let turn = 0; turn < 150 && isTooWide(); turn += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return !isTooWide() ? [] : [...document.querySelectorAll("body *")]
    .filter((element) => element.getBoundingClientRect().right > window.innerWidth + 1)
    .slice(0, 5)
    .map((element) => element.outerHTML.slice(0, 150));
}
"""
# A page hears of the system's theme a moment after it has changed, and a frame from its page.
IS_IN_THEME = """
(theme) => {
  const { bsTheme, theme: own } = document.documentElement.dataset;
  return [bsTheme, own].every((shown) => [undefined, "auto", theme].includes(shown));
}
"""
# The first thing that the Tab key reaches leads past the menu.
BEGINS_WITH_SKIP_LINK = """
() => {
  const first = document.querySelector("body :is(a[href], button, input:not([type=hidden]))");
  return first.matches("a[href^='#']")
    && document.querySelector(first.getAttribute("href"))?.querySelector("h1") instanceof Element;
}
"""


def open_page(page: Page, path: str) -> None:
    page.set_viewport_size({"width": DESK, "height": 900})
    page.emulate_media(color_scheme="light")
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == 200
    if path == PAGES["health"]:
        chart = page.frame_locator("[data-dashboard]").locator("#outcomes .bars .point")
        expect(chart.first).to_be_attached()


def assert_no_flaws(page: Page) -> None:
    """Fits its width, and passes axe-core, in both themes on a desk and on a telephone."""
    flaws: list[str] = []
    for theme, width in (
        ("light", DESK),
        ("light", TELEPHONE),
        ("dark", TELEPHONE),
        ("dark", DESK),
    ):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        for frame in page.frames:
            frame.wait_for_function(IS_IN_THEME, arg=theme, polling=50)
            where = f"{theme}, {width} px, {frame.url}:"
            flaws += [f"{where} too wide: {element}" for element in frame.evaluate(FIND_TOO_WIDE)]
            if (theme, width) != ("light", TELEPHONE):
                flaws += [
                    f"{where} {flaw}" for flaw in find_violations(frame) if not is_dashs_own(flaw)
                ]
    assert not flaws, "\n".join(flaws)


def is_dashs_own(flaw: str) -> bool:
    return flaw.startswith(DASH_RULES) and 'class="dash-' in flaw


def assert_page_holds(page: Page) -> None:
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate(BEGINS_WITH_SKIP_LINK) is True
    assert page.title()
    assert_no_flaws(page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_in_every_width_and_theme(
    page: Page, portal: Portal, trouble: Trouble, name: str
) -> None:
    numbers = {"run": portal.run_id, "record": portal.record_id, "error": portal.error_id}
    open_page(page, PAGES[name].format_map(numbers))
    assert_page_holds(page)
    assert trouble.seen == []


@pytest.mark.parametrize("name", SIGNED_OUT_PAGES)
def test_a_page_for_everybody_holds_in_every_width_and_theme(
    new_context: NewContext, trouble: Trouble, name: str
) -> None:
    page = new_context().new_page()
    open_page(page, SIGNED_OUT_PAGES[name])
    assert_page_holds(page)
    assert trouble.seen == []


def test_every_entry_of_the_menu_is_among_the_pages(page: Page) -> None:
    page.goto("/")
    entries = page.get_by_role("navigation", name="Main").locator("ul").first.get_by_role("link")
    addresses = {entry.get_attribute("href") for entry in entries.all()}
    assert len(addresses) >= 7
    assert addresses <= set(PAGES.values())


def test_a_missing_page_holds_too(page: Page) -> None:
    answer = page.goto("/nowhere/")
    assert answer is not None
    assert answer.status == 404
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert_no_flaws(page)


def test_the_skip_link_leads_to_the_content_by_keyboard(page: Page) -> None:
    page.goto("/sources/")
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to content")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New source")).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_menu_of_a_telephone_opens(page: Page, trouble: Trouble, theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": TELEPHONE, "height": 900})
    page.goto("/sources/")
    menu = page.get_by_role("navigation", name="Main")
    expect(menu.get_by_role("link", name="Health")).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    expect(menu.get_by_role("link", name="Health")).to_be_visible()
    expect(page.locator(".collapse.show")).to_be_visible()
    assert page.evaluate(FIND_TOO_WIDE) == []
    assert find_violations(page.main_frame) == []
    menu.get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    assert trouble.seen == []


def test_open_suggestions_have_names_and_contrast(page: Page) -> None:
    open_page(page, "/search/")
    page.get_by_role("combobox", name="Search records and errors").fill("istnbul")
    expect(page.get_by_role("option")).not_to_have_count(0)
    page.keyboard.press("ArrowDown")
    assert_no_flaws(page)

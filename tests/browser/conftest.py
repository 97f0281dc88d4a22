"""A portal for all browser tests, and Debian's Chromium under Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.portal import Portal, run_portal, sign_in
from tests.browser.trouble import Trouble

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)

NewContext = Callable[..., BrowserContext]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """What never appeared did not happen in time, in whatever words Playwright says it (0087)."""
    try:
        return (yield)
    except AssertionError as error:
        if "Error: element(s) not found" in str(error):
            raise TimeoutError(f"not within {TIMEOUT_MS / 1000:.0f} s") from error
        raise


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; without one a skip, with CI=true a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "Chromium is not installed (Debian's package: chromium)."
        if os.environ.get("CI", "").lower() == "true":  # noqa: TID251
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def portal(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    with run_portal(tmp_path_factory.mktemp("browser")) as running:
        yield running


# Not for the session: Playwright's event loop counts as running in this thread while it is open,
# and tests of other folders, which have loops of their own, come between these modules.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def kept_sessions() -> list[Any]:
    """Where the first login stays for the modules after it."""
    return []


@pytest.fixture(scope="module")
def session(browser: Browser, portal: Portal, kept_sessions: list[Any]) -> Any:
    """Cookies of the administrator, who signed in by the form."""
    if not kept_sessions:
        with browser.new_context(base_url=portal.origin, locale="en-US") as context:
            page = context.new_page()
            page.goto("/accounts/login/")
            sign_in(page, portal)
            page.wait_for_url(f"{portal.origin}/")
            kept_sessions.append(context.storage_state())
    return kept_sessions[0]


@pytest.fixture
def trouble(portal: Portal) -> Trouble:
    """What went wrong in the pages of the test so far."""
    return Trouble(portal.origin)


@pytest.fixture
def new_context(browser: Browser, portal: Portal, trouble: Trouble) -> Iterator[NewContext]:
    """Makes browser contexts whose pages are watched; options are those of Playwright."""
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        defaults = {"base_url": portal.origin, "locale": "en-US", "reduced_motion": "reduce"}
        context = browser.new_context(**(defaults | options))
        context.set_default_timeout(TIMEOUT_MS)
        trouble.watch(context)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_context: NewContext, session: Any) -> Page:
    """A page of the administrator, 1280 pixels wide."""
    context = new_context(storage_state=session, viewport={"width": 1280, "height": 800})
    return context.new_page()

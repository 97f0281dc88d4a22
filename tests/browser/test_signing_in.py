"""The login form, the way out, and the language."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewContext
from tests.browser.portal import Portal, sign_in
from tests.browser.trouble import Trouble

pytestmark = pytest.mark.browser


def test_the_login_form_leads_to_the_page_that_was_asked_for(
    new_context: NewContext, portal: Portal, trouble: Trouble
) -> None:
    page = new_context().new_page()
    page.goto("/search/?q=istnbul")
    assert "/accounts/login/" in page.url
    sign_in(page, portal, password="not the password")
    expect(page.get_by_role("main")).to_contain_text("Please enter a correct")
    sign_in(page, portal)
    page.wait_for_url(f"{portal.origin}/search/?q=istnbul")
    expect(page.locator("article h2").first).to_have_text("Istanbul")

    page.get_by_role("button", name="Sign out").click()
    # Not to be cut off by the next address.
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    page.goto("/runs/")
    assert "/accounts/login/" in page.url
    assert trouble.seen == []


def test_another_language_keeps_the_page(page: Page, portal: Portal, trouble: Trouble) -> None:
    address = f"{portal.origin}/search/?q=istnbul&kind=record"
    page.goto(address)
    turkish = page.get_by_role("button", name="Türkçe")
    for code, button in (("tr", turkish), ("en", page.get_by_role("button", name="English"))):
        button.click()
        expect(page.locator("html")).to_have_attribute("lang", code)
        expect(button).to_have_attribute("aria-current", "true")
        assert page.url == address
    assert trouble.seen == []

"""The search box as people use it: misspelled, by keyboard, on a slow or dead server."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import NewContext
from tests.browser.portal import ASTRAL, HOSTILE, Portal
from tests.browser.trouble import Trouble

pytestmark = pytest.mark.browser

API = "**/api/search/?*"


def box_of(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Search records and errors")


def options_of(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Suggestions").get_by_role("option")


def type_in(page: Page, text: str) -> None:
    """All at once: between two keys, a machine that stalls lets the box ask for half a word."""
    box_of(page).focus()
    page.keyboard.insert_text(text)


def type_by_key(page: Page, text: str) -> None:
    """Key by key; returns when the whole text is answered."""
    with page.expect_response(lambda response: f"q={text}&" in f"{response.url}&"):
        box_of(page).press_sequentially(text, delay=15)


@pytest.mark.parametrize("path", ["/", "/search/"])
def test_a_misspelled_city_is_chosen_by_keyboard(page: Page, trouble: Trouble, path: str) -> None:
    page.goto(path)
    type_by_key(page, "istnbul")
    first = options_of(page).first
    expect(first.locator(".search-box-title")).to_have_text("Istanbul")
    expect(box_of(page)).to_have_attribute("aria-expanded", "true")

    page.keyboard.press("ArrowDown")
    expect(first).to_have_attribute("aria-selected", "true")
    expect(box_of(page)).to_have_attribute(
        "aria-activedescendant", first.get_attribute("id") or "no id"
    )
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/records/\d+/$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Istanbul")
    assert trouble.seen == []


def test_the_arrows_go_round_by_way_of_the_text_itself(page: Page) -> None:
    page.goto("/search/")
    type_in(page, "istnbul")
    expect(options_of(page)).not_to_have_count(0)
    page.keyboard.press("ArrowUp")
    expect(options_of(page).last).to_have_attribute("aria-selected", "true")
    expect(options_of(page).last).to_contain_text("Show all results")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[aria-selected=true]")).to_have_count(0)
    assert box_of(page).get_attribute("aria-activedescendant") is None
    expect(box_of(page)).to_be_focused()


def test_a_suggestion_is_chosen_by_pointer(page: Page) -> None:
    page.goto("/")
    type_in(page, "shangai")
    options_of(page).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Shanghai")


def test_escape_closes_the_list_and_keeps_the_text(page: Page) -> None:
    page.goto("/")
    type_in(page, "istnbul")
    expect(options_of(page)).not_to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("[role=listbox]")).to_be_hidden()
    expect(box_of(page)).to_have_value("istnbul")
    expect(box_of(page)).to_have_attribute("aria-expanded", "false")


def test_fewer_than_two_characters_clear_the_list(page: Page, trouble: Trouble) -> None:
    page.goto("/")
    type_in(page, "is")
    expect(options_of(page)).not_to_have_count(0)
    asked = len(trouble.requested)
    page.keyboard.press("Backspace")
    expect(page.locator("[role=listbox]")).to_be_hidden()
    assert page.locator("[role=option]").count() == 0
    page.wait_for_timeout(300)  # longer than the box waits before it asks
    assert trouble.requested[asked:] == []


def test_enter_without_a_choice_goes_to_the_results(page: Page, portal: Portal) -> None:
    page.goto("/")
    type_in(page, "istnbul")
    expect(options_of(page)).not_to_have_count(0)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{portal.origin}/search/?q=istnbul")
    expect(page.locator("article h2").first).to_have_text("Istanbul")


def test_marks_cover_the_word_although_astral_characters_come_before_it(page: Page) -> None:
    page.goto("/")
    type_in(page, "parotville")
    option = options_of(page).first
    expect(option.locator(".search-box-title")).to_have_text(ASTRAL)
    expect(option.locator(".search-box-title mark")).to_have_text(["Parrotville"])
    in_text = option.locator(".search-box-text mark")
    expect(in_text).to_have_text(["Parrotville", "parrotville"])

    page.keyboard.press("Enter")
    hit = page.locator("article").first
    expect(hit.locator("h2")).to_have_text(ASTRAL)
    expect(hit.locator("h2 mark")).to_have_text(["Parrotville"])
    expect(hit.locator("p mark")).to_have_text(["Parrotville", "parrotville"])


def test_markup_in_a_title_is_shown_as_text(page: Page, trouble: Trouble) -> None:
    page.goto("/")
    type_in(page, "angelburg")
    title = options_of(page).first.locator(".search-box-title")
    expect(title).to_have_text(HOSTILE)
    assert page.locator("[role=listbox] :is(img, b, script)").count() == 0
    page.keyboard.press("Enter")
    expect(page.locator("article h2").first).to_have_text(HOSTILE)
    assert page.locator("article :is(img, b, script)").count() == 0
    page.locator("article h2 a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    assert page.title().startswith("<img")
    assert [url for url in trouble.requested if url.endswith("/x")] == []
    assert trouble.seen == []


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("", id="it is aborted"),
        # What an abort cannot catch any more: an answer that has already arrived.
        pytest.param("AbortController.prototype.abort = () => {}", id="it arrives all the same"),
    ],
)
def test_a_stale_answer_never_overwrites_a_newer_one(page: Page, script: str) -> None:
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held:
            route.fallback()
        else:
            held.append(route)

    page.add_init_script(script)
    page.route(API, hold_first)
    page.goto("/")
    with page.expect_request(API):
        type_in(page, "shanghai")
    box_of(page).fill("istnbul")
    title = options_of(page).first.locator(".search-box-title")
    expect(title).to_have_text("Istanbul")
    assert "shanghai" in held[0].request.url

    if script:
        with page.expect_event("requestfinished", lambda each: "shanghai" in each.url):
            held[0].fallback()
        page.wait_for_timeout(200)
        assert held[0].request.failure is None
    else:
        assert held[0].request.failure == "net::ERR_ABORTED"
    expect(title).to_have_text("Istanbul")


def test_the_servers_own_words_are_shown_when_search_is_down(page: Page) -> None:
    message = "Search is not reachable."
    error = {"status": 503, "code": "search_unavailable", "message": message, "fields": {}}
    page.goto("/")
    page.route(
        API, lambda route: route.fulfill(status=503, json={"success": False, "error": error})
    )
    type_in(page, "istnbul")
    expect(page.get_by_role("alert")).to_have_text(message)
    assert options_of(page).count() == 0

    page.unroute(API)
    type_in(page, " ")
    expect(options_of(page).first).to_contain_text("Istanbul")
    expect(page.locator("[role=alert]")).to_be_hidden()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda route: route.abort("connectionrefused"), id="nobody answers"),
        pytest.param(
            lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad</h1>"),
            id="a proxy answers with a page",
        ),
    ],
)
def test_a_server_that_fails_is_told(page: Page, answer: object) -> None:
    page.goto("/")
    page.route(API, answer)  # type: ignore[arg-type]
    type_in(page, "istnbul")
    expect(page.get_by_role("alert")).to_contain_text("Search does not answer")
    assert options_of(page).count() == 0


def test_who_was_signed_out_meanwhile_is_told(page: Page) -> None:
    page.goto("/")
    page.context.clear_cookies()
    # The refusal is an error that search finds by its address, before any word that is only
    # similar: no other test may look for this one.
    type_in(page, "unauthorised word")
    expect(page.get_by_role("alert")).to_have_text("You are signed out. Please sign in again.")


def test_nothing_found_is_said(page: Page) -> None:
    page.goto("/")
    type_in(page, "qqqqzzzz")
    expect(page.locator("[role=listbox]")).to_have_text("Nothing found.")
    assert options_of(page).count() == 0


def test_the_form_finds_the_city_without_javascript(
    new_context: NewContext, session: object
) -> None:
    page = new_context(storage_state=session, java_script_enabled=False).new_page()
    page.goto("/")
    box_of(page).fill("istnbul")
    page.get_by_role("button", name="Search").click()
    page.locator("article h2 a").first.click()
    page.wait_for_url(re.compile(r"/records/\d+/$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Istanbul")


def test_another_spelling_is_offered_by_keyboard(page: Page, portal: Portal) -> None:
    def answer(route: Route) -> None:
        assert "parts=hits" in route.request.url
        route.fulfill(
            json={"success": True, "total": 0, "results": [], "did_you_mean": "istanbul <b>"}
        )

    page.goto("/search/?kind=record")
    page.route(API, answer)
    type_in(page, "qqqq")
    expect(options_of(page)).to_have_text("Did you mean: istanbul <b>")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{portal.origin}/search/?kind=record&q=istanbul+%3Cb%3E")


def test_all_results_are_exported_with_a_receipt(page: Page) -> None:
    page.goto("/search/?q=istnbul")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    assert re.fullmatch(r"search-[\d-]+\.csv", download.value.suggested_filename)
    lines = download.value.path().read_text().splitlines()
    assert re.fullmatch(r"# rows=\d+,sha256=[0-9a-f]{64}", lines[-1])

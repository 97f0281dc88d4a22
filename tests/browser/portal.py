"""The portal that the browser looks at: real processes, a finished run with gaps, odd records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aiohttp import web
from playwright.sync_api import Page

from ingest.rehearsal import serve_in_thread
from tests.ingest.upstream import scripted_upstream
from tests.live.stack import EMAIL, Stack, run_stack

CITIES = 600
# Titles that a careless page would cut in the middle of a character, or run.
ASTRAL = "🏴‍☠️ 𝔒𝔩𝔡 🦜 Parrotville 🜁 Harbour"
HOSTILE = '<img src=x onerror="document.title=1"> <b>Angleburg</b> & </script> Sons'
ODD_RECORDS = [
    {"id": "astral", "name": ASTRAL, "text": "𝒮𝓊𝓃 over 🦜 Parrotville, twice 🦜 parrotville"},
    {"id": "hostile", "name": HOSTILE, "text": "<script>document.title = 2</script> Angleburg"},
    {"id": "long/1", "name": "Llanfair" + "pwllgwyngyll" * 20, "text": "one word " + "x" * 300},
]


@dataclass
class Portal:
    """A running portal whose administrator may sign in; `run_id` is a finished run with gaps."""

    stack: Stack
    upstream: str
    run_id: int = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.stack.port}"

    @property
    def email(self) -> str:
        return EMAIL

    @property
    def password(self) -> str:
        return self.stack.environment["DJANGO_SUPERUSER_PASSWORD"]

    @cached_property
    def record_id(self) -> int:
        """The record whose title is one long word."""
        hit = self.stack.api("GET", "/api/search/?q=llanfairpwll").body["results"][0]
        return int(hit["url"].split("/")[2])

    @cached_property
    def error_id(self) -> int:
        number: int = self.stack.api("GET", "/api/errors/").body["results"][0]["id"]
        return number

    def create_values_source(self, slug: str, url: str, values: list[str]) -> None:
        """A source that asks `url` once for each value and tries nothing twice."""
        configuration = {
            "slug": slug,
            "request": {"url": url, "timeout_seconds": 5},
            "plan": {"type": "values", "name": "id", "values": values},
            "records": {"key": "id", "title": "name", "body": "text"},
            "retry": {"attempts": 1, "sweeps": 0},
        }
        answer = self.stack.api("POST", "/api/sources/", configuration)
        assert answer.status == 201, answer.body


@contextlib.contextmanager
def run_portal(data_dir: Path) -> Iterator[Portal]:
    with (
        run_stack(data_dir) as stack,
        serve_in_thread(profile="unruly", count=CITIES) as upstream,
        scripted_upstream(_answer_oddly) as odd,
    ):
        portal = Portal(stack, upstream)
        stack.create_source("cities", f"{upstream}/cities/{{id}}", count=CITIES)
        portal.run_id = stack.start_run("cities")
        portal.create_values_source("odd", f"{odd.url}/{{id}}", ["all"])
        stack.wait_for_run(stack.start_run("odd"))
        stack.wait_for_run(portal.run_id)
        stack.wait_until_indexed()
        yield portal


def sign_in(page: Page, portal: Portal, *, password: str = "") -> None:
    """Fills and sends the form of the login page."""
    page.get_by_label("E-mail address").fill(portal.email)
    page.get_by_label("Password").fill(password or portal.password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


async def _answer_oddly(request: web.Request) -> web.Response:
    return web.json_response(ODD_RECORDS)

"""What a page must not do, noted while it does it."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, WebError

# Chromium names violations on the console too, but not those of a report-only policy.
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


class Trouble:
    """Errors on the console, exceptions of scripts, violations of the policy, foreign requests."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.seen: list[str] = []
        self.requested: list[str] = []

    def watch(self, context: BrowserContext) -> None:
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("console", self._note_console)
        context.on("weberror", self._note_error)
        context.on("request", self._note_request)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"console {message.type}: {message.text} {message.location}")

    def _note_error(self, error: WebError) -> None:
        self.seen.append(f"exception: {error.error}")

    def _note_request(self, request: Request) -> None:
        self.requested.append(request.url)
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.seen.append(f"request outside: {request.url}")

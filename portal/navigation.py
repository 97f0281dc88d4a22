"""The entries of the main menu, for every page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

# (label, name of the address, who sees it)
EVERYBODY, SIGNED_IN, STAFF = "everybody", "signed in", "staff"
ENTRIES = (
    (_("Home"), "home", EVERYBODY),
    (_("Search"), "search:page", SIGNED_IN),
    (_("Sources"), "ingest:sources", SIGNED_IN),
    (_("Runs"), "ingest:runs", SIGNED_IN),
    (_("Jobs"), "ingest:results", SIGNED_IN),
    (_("Health"), "analytics:health", SIGNED_IN),
    (_("Admin"), "admin:index", STAFF),
)


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Template context: `navigation`, each entry with label, url and whether one is there."""
    user = getattr(request, "user", None)
    roles = {EVERYBODY}
    if user is not None and user.is_authenticated:
        roles |= {SIGNED_IN} | ({STAFF} if getattr(user, "is_staff", False) else set())
    return {
        "navigation": [
            {"label": label, "url": url, "is_current": _is_current(request.path, url)}
            for label, name, role in ENTRIES
            if role in roles and (url := reverse(name))
        ]
    }


def _is_current(path: str, url: str) -> bool:
    return path == url if url == "/" else path.startswith(url)

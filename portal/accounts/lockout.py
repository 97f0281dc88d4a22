"""Locks an account for one address after too many wrong passwords.

Per account *and* address: who guesses from elsewhere cannot lock the owner out, and an address that
mistyped one account still reaches another.
"""

from __future__ import annotations

import hashlib
import math

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from django.utils.translation import gettext as _


class LockedOut(Exception):
    """Too many wrong passwords for this account from this address."""

    status_code = 429
    code = "locked_out"

    def __init__(self, wait_seconds: float) -> None:
        super().__init__("Too many wrong passwords.")
        self.wait_seconds = max(1.0, wait_seconds)
        self.fields: dict[str, list[str]] = {}

    @property
    def message(self) -> str:
        return str(_("Too many wrong passwords for this account. Please try again later."))

    @property
    def retry_after(self) -> int:
        return math.ceil(self.wait_seconds)


def refuse_if_locked(request: HttpRequest | None, email: str) -> None:
    """Raises LockedOut."""
    key = _key(request, email)
    if (cache.get(f"{key}:locked")) is not None:
        raise LockedOut(cache.seconds_left(f"{key}:locked"))  # type: ignore[attr-defined]


def note_failure(request: HttpRequest | None, email: str) -> None:
    """Count a wrong password.

    Counted after the check, so guesses sent at the same moment are all looked at; their number is
    that of the server's threads. Counting before would refuse programs that sign in side by side.
    """
    key = _key(request, email)
    failures = cache.count_up(  # type: ignore[attr-defined]
        f"{key}:failures", expires_seconds=settings.LOCKOUT_SECONDS
    )
    if failures >= settings.LOCKOUT_ATTEMPTS:
        cache.set(f"{key}:locked", 1, timeout=settings.LOCKOUT_SECONDS)
        cache.delete(f"{key}:failures")


def forget_failures(request: HttpRequest | None, email: str) -> None:
    cache.delete(f"{_key(request, email)}:failures")


def caller_address(request: HttpRequest | None) -> str:
    """The address of the caller, as far as the configured number of proxies can be trusted."""
    if request is None:
        return "local"
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    proxies: int = settings.TRUSTED_PROXIES
    if proxies and forwarded[0].strip():
        return str(forwarded[-min(proxies, len(forwarded))].strip())
    return str(request.META.get("REMOTE_ADDR") or "local")


def _key(request: HttpRequest | None, email: str) -> str:
    # One lock for all spellings that a database takes for one account: PostgreSQL compares by
    # UPPER(), where ı is I as i is, and casefold() alone would tell them apart.
    name = f"{email.strip().upper().casefold()}\n{caller_address(request)}"
    return f"lockout:{hashlib.sha256(name.encode(errors='replace')).hexdigest()}"

"""Signing in by e-mail and password, with a lockout: the one door of pages, admin and tokens."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from portal.accounts import lockout
from portal.accounts.models import User


class EmailBackend(ModelBackend):
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """Raises LockedOut, also for the right password, while the account is locked."""
        email = username if username is not None else kwargs.get("email")
        if email is None or password is None:
            return None
        lockout.refuse_if_locked(request, email)
        user = super().authenticate(request, username=email, password=password)
        if user is None:
            lockout.note_failure(request, email)
        else:
            lockout.forget_failures(request, email)
        return user

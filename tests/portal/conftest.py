"""Fixtures of the portal's tests: users, clients, an empty cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from portal.accounts.models import User

PASSWORD = "a long enough password"


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    """Throttles and lockouts of one test are none of the next one's business."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def user(db) -> User:
    return User.objects.create_user("reader@example.org", PASSWORD)


@pytest.fixture
def staff(db) -> User:
    return User.objects.create_user("staff@example.org", PASSWORD, is_staff=True, is_superuser=True)


@pytest.fixture
def visitor(db) -> Client:
    """A browser without a login that sees the pages of errors instead of exceptions."""
    return Client(raise_request_exception=False)


@pytest.fixture
def browser(user: User) -> Client:
    """A browser that is signed in."""
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def api(db) -> APIClient:
    """A program without a token."""
    return APIClient(raise_request_exception=False)


@pytest.fixture
def signed_in_api(user: User) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(user)
    return client

"""Fixtures of the tests of analytics: who looks, and what there is to see."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.ingest.factories import UserFactory


@pytest.fixture
def user(db):
    return UserFactory()


@pytest.fixture
def staff(db):
    return UserFactory(is_staff=True)


@pytest.fixture
def visitor(db) -> Client:
    """A browser without a login."""
    return Client(raise_request_exception=False)


@pytest.fixture
def browser(user) -> Client:
    """A browser in which a plain user is signed in."""
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def staff_browser(staff) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(staff)
    return client

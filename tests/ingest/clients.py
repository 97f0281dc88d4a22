"""Callers of the API and visitors of the pages."""

from __future__ import annotations

from typing import Any

from django.test import Client
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken


def call_as(user: Any = None) -> APIClient:
    """A program with the user's access token; without a user, without one."""
    client = APIClient()
    if user is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
    return client


def visit_as(user: Any = None) -> Client:
    """A browser in which the user is signed in."""
    client = Client()
    if user is not None:
        client.force_login(user)
    return client

"""Exports and kept answers on a real Elasticsearch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from ingest.models import Record
from search import indexer
from search.engines.base import Engine
from tests.live.elasticsearch_node import node, portal_on_elasticsearch
from tests.search.conftest import owner, source, staff, store

pytestmark = [pytest.mark.live, pytest.mark.django_db]

__all__ = ["node", "owner", "portal_on_elasticsearch", "source", "staff", "store"]

ROWS = 2_100  # more than two batches of a scan


@pytest.fixture
def client(
    portal_on_elasticsearch: Callable[..., Engine], store: Callable[..., Record], staff: Any
) -> Client:
    cache.clear()
    for number in range(ROWS):
        store(f"leaf {number}")
    indexer.drain_everything()
    client = Client()
    client.force_login(staff)
    return client


def test_an_export_is_whole_and_a_kept_answer_ends_with_its_index(
    client: Client, portal_on_elasticsearch: Callable[..., Engine]
) -> None:
    body = b"".join(client.get("/api/search/export/?q=leaf&format=ndjson"))
    start = body.rindex(b'{"receipt"')
    ids = [json.loads(line)["id"] for line in body[:start].splitlines()]
    assert len(ids) == len(set(ids)) == ROWS
    assert json.loads(body[start:]) == {
        "receipt": {"rows": ROWS, "sha256": hashlib.sha256(body[:start]).hexdigest()}
    }

    answers = [client.get("/api/search/?q=leaf&size=100") for _ in range(2)]
    assert [answer["X-Cache"] for answer in answers] == ["miss", "hit"]
    assert [hit["id"] for hit in answers[1].json()["results"]] == ids[:100]

    engine: Any = portal_on_elasticsearch()
    for index in engine._client.indices.get(index=f"{engine._prefix}-*"):
        engine._client.indices.delete(index=index)
    assert client.get("/api/search/?q=leaf&size=100").status_code == 503

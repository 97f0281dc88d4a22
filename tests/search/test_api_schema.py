"""The OpenAPI schema of search, held against real answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from ingest.models import Record
from portal.accounts.models import User
from search.engines.tantivy import TantivyView
from search.errors import SearchTimeout
from tests.ingest.test_api_schema import _as_json_schema

pytestmark = pytest.mark.django_db

ADDRESSES = ["/api/search/", "/api/search/{text}/"]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    generator: Any = SchemaGenerator
    generated: dict[str, Any] = _as_json_schema(generator().get_schema(request=None, public=True))
    return generated


def find_problems(schema: dict[str, Any], address: str, response: Any) -> list[str]:
    answers = schema["paths"][address]["get"]["responses"]
    expected = answers[str(response.status_code)]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**expected, "components": schema["components"]})
    return [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(response.json())
    ]


def list_keys(schema: dict[str, Any], name: str) -> set[str]:
    return set(schema["components"]["schemas"][name]["properties"])


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_answer_is_what_the_schema_says(
    schema: dict[str, Any],
    address: str,
    store: Callable[..., Record],
    drain: Callable[[], int],
    reader: User,
) -> None:
    for number in range(3):
        store(f"Istanbul {number}", data={"id": number, "more": [None, {"a": 1.5}]})
    drain()
    client = Client()
    client.force_login(reader)
    response = client.get(address.format(text="istnbul"), {"q": "istnbul", "size": "2"})
    assert response.status_code == 200
    assert find_problems(schema, address, response) == []
    answer = response.json()
    assert answer["next"]
    assert set(answer) == list_keys(schema, "SearchAnswer")
    assert set(answer["results"][0]) == list_keys(schema, "SearchHit")
    assert set(answer["histogram"][0]) == list_keys(schema, "SearchBucket")
    assert set(answer["facets"]["source"][0]) == list_keys(schema, "SearchFacetValue")


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_error_is_what_the_schema_says(
    schema: dict[str, Any],
    address: str,
    store: Callable[..., Record],
    drain: Callable[[], int],
    reader: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store("Istanbul")
    drain()
    client, path = Client(), address.format(text="istnbul")
    assert find_problems(schema, address, client.get(path)) == []
    client.force_login(reader)
    wrong = client.get(path, {"size": "0"})
    assert wrong.status_code == 400
    assert find_problems(schema, address, wrong) == []

    def give_up(*args: Any, **kwargs: Any) -> None:
        raise SearchTimeout

    monkeypatch.setattr(TantivyView, "find", give_up)
    late = client.get(path)
    assert late.status_code == 503
    assert find_problems(schema, address, late) == []

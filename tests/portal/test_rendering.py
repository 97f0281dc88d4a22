"""JSON is written as DRF writes it, only faster, and whatever is in it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.utils.translation import gettext_lazy
from rest_framework.renderers import JSONRenderer

from portal.rendering import FastJSONRenderer


@pytest.mark.parametrize(
    "value",
    [
        *(datetime(2026, 1, 1, 12, 0, 0, 123456, UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=3))),
        *(date(2026, 1, 1), timedelta(seconds=90), Decimal("1.10"), UUID(int=1)),
        *(gettext_lazy("Search"), {1: "a", None: "b"}, (1, 2), "ağaç 🎉", None, {"a": {1, 2}}),
        *(2**80, -(2**70), 1.5, True, [], {}),
    ],
    ids=repr,
)
def test_it_reads_the_same(value: Any) -> None:
    data = {"value": value}

    assert json.loads(FastJSONRenderer().render(data)) == json.loads(JSONRenderer().render(data))


def test_half_a_surrogate_pair_is_escaped() -> None:
    assert FastJSONRenderer().render({"a": "\ud800"}) == b'{"a":"\\ud800"}'


def test_deep_data_is_written() -> None:
    deep: Any = "bottom"
    for _ in range(400):
        deep = [deep]

    assert FastJSONRenderer().render(deep) == b"[" * 400 + b'"bottom"' + b"]" * 400


def test_an_indent_that_is_asked_for_is_given() -> None:
    assert FastJSONRenderer().render({"a": 1}, "application/json; indent=2") == b'{\n  "a": 1\n}'


def test_nothing_is_no_body() -> None:
    assert FastJSONRenderer().render(None) == b""

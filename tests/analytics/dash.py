"""Speaks to the Dash app as its page does."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client

APP = "/dash/app/health"
OUTPUTS = [
    *(("outcomes", "figure"), ("throughput", "figure"), ("latency", "figure")),
    *(("completeness", "figure"), ("completeness", "style")),
    *(("totals", "children"), ("status", "children")),
]


def ask(client: Client, *, search: str = "", theme: str = "light", **extra: Any) -> Any:
    """The callback's answer to the filters of a query string."""
    question = {"search": search, "theme": theme, "touch": False}
    body = {
        "output": "..{}..".format("...".join(f"{name}.{what}" for name, what in OUTPUTS)),
        "outputs": [{"id": name, "property": what} for name, what in OUTPUTS],
        "inputs": [{"id": "question", "property": "data", "value": question}],
        "changedPropIds": ["question.data"],
        "state": [],
    }
    return client.post(
        f"{APP}/_dash-update-component", json.dumps(body), content_type="application/json", **extra
    )

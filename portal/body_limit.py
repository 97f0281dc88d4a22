"""Stops keeping a body that grows past the limit, and tells the length of one that announced none.

Django spools a whole body to disk before a view is called; a chunked body announces no length, and
DRF takes a body without one for an empty one.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings

TOO_LARGE = "gleaner.body_too_large"
LENGTH = "gleaner.body_length"


def limit_body(application: Any) -> Any:
    """An ASGI application that cuts a too large body off, and notes so in the scope.

    The note lets `portal.middleware.body_limit` give the answer, so that it has the usual shape.
    """

    async def limited(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope[LENGTH] = 0
        scope[TOO_LARGE] = _announced_length(scope) > settings.MAX_BODY_BYTES
        is_cut_off = False

        async def receive_limited() -> dict[str, Any]:
            nonlocal is_cut_off
            while True:
                message: dict[str, Any] = await receive()
                if message["type"] != "http.request":
                    return message
                if is_cut_off:
                    continue  # the rest goes nowhere; what is awaited now is the disconnect
                scope[LENGTH] += len(message.get("body", b""))
                scope[TOO_LARGE] |= scope[LENGTH] > settings.MAX_BODY_BYTES
                if not scope[TOO_LARGE]:
                    return message
                is_cut_off = True
                return {"type": "http.request", "body": b"", "more_body": False}

        await application(scope, receive_limited, send)

    return limited


def _announced_length(scope: dict[str, Any]) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
    return 0

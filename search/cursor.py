"""Where a page of results ended, as an opaque and signed text.

It names the position by what the results are ordered by, never by a number of rows to skip, and
pins the stage of the plan: so the next page neither skips nor repeats anything, also when the index
has changed. Signed, because a forged position could ask for ten million rows.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext as _

from search.errors import InvalidQuery

_LAYOUT = struct.Struct(">BB8sqqq")
_VERSION = 1
_SIGNATURE_BYTES = 10


@dataclass(frozen=True, slots=True)
class Position:
    """The last hit of a page: its order key (score units or µs), its tie, the hits up to it."""

    value: int
    tie: int
    seen: int


@dataclass(frozen=True, slots=True)
class Cursor:
    stage: int
    position: Position


def write(cursor: Cursor, *, fingerprint: str) -> str:
    position = cursor.position
    payload = _LAYOUT.pack(
        _VERSION,
        cursor.stage,
        bytes.fromhex(fingerprint),
        position.value,
        position.tie,
        position.seen,
    )
    return base64.urlsafe_b64encode(payload + _sign(payload)).decode().rstrip("=")


def read(text: str, *, fingerprint: str) -> Cursor:
    """The cursor in `text`. Raises InvalidQuery when it is not one, or one of another query."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _invalid() from None
    payload, signature = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
    if not constant_time_compare(signature, _sign(payload)) or len(payload) != _LAYOUT.size:
        raise _invalid()
    version, stage, query, value, tie, seen = _LAYOUT.unpack(payload)
    if version != _VERSION:
        raise _invalid()
    if query.hex() != fingerprint:
        raise InvalidQuery("cursor", _("This cursor belongs to another query."))
    return Cursor(stage=stage, position=Position(value=value, tie=tie, seen=seen))


def _invalid() -> InvalidQuery:
    return InvalidQuery("cursor", _("This is not a cursor of this search."))


def _sign(payload: bytes) -> bytes:
    return salted_hmac("search.cursor", payload, algorithm="sha256").digest()[:_SIGNATURE_BYTES]

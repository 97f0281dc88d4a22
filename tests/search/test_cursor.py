from __future__ import annotations

import base64

import pytest

from search import cursor as cursors
from search.cursor import Cursor, Position
from search.errors import InvalidQuery

FINGERPRINT = "0123456789abcdef"
CURSOR = Cursor(stage=2, position=Position(value=-(2**62), tie=2**40, seen=100))


def test_a_cursor_comes_back_as_it_was() -> None:
    text = cursors.write(CURSOR, fingerprint=FINGERPRINT)
    assert cursors.read(text, fingerprint=FINGERPRINT) == CURSOR
    assert text.replace("-", "").replace("_", "").isalnum()


def test_a_cursor_of_another_query_is_refused() -> None:
    text = cursors.write(CURSOR, fingerprint=FINGERPRINT)
    with pytest.raises(InvalidQuery, match="another query"):
        cursors.read(text, fingerprint="f" * 16)


def test_a_changed_cursor_is_refused() -> None:
    text = cursors.write(CURSOR, fingerprint=FINGERPRINT)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(InvalidQuery):
            cursors.read(base64.urlsafe_b64encode(changed).decode(), fingerprint=FINGERPRINT)


def test_a_cursor_of_another_portal_is_refused(settings: pytest.FixtureRequest) -> None:
    text = cursors.write(CURSOR, fingerprint=FINGERPRINT)
    settings.SECRET_KEY = "of another portal"  # type: ignore[attr-defined]
    with pytest.raises(InvalidQuery):
        cursors.read(text, fingerprint=FINGERPRINT)

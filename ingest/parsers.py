"""Reading JSON bodies that the rest of the code can rely on: finite numbers, storable text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import IO, Any

from django.utils.translation import gettext as _
from rest_framework import parsers
from rest_framework.exceptions import ParseError, ValidationError

_WHOLE = "non_field_errors"


class JSONObjectParser(parsers.JSONParser):
    """JSON whose root is an object.

    Python's reader lets pass what no database column takes: U+0000, lone surrogates, and numbers
    that overflow to infinity. They are refused here, each by its path.
    """

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        try:
            data = super().parse(stream, media_type, parser_context)
            problems = find_unstorable(data)
        except RecursionError:
            raise ParseError(_("The JSON is nested too deeply.")) from None
        if not isinstance(data, dict):
            raise ValidationError([_("The body must be a JSON object.")])
        if problems:
            raise ValidationError(problems)
        return data


class MergePatchParser(JSONObjectParser):
    """The same under the media type of RFC 7396."""

    media_type = "application/merge-patch+json"


def find_unstorable(data: Any) -> dict[str, list[str]]:
    """What no database takes, by dotted path: U+0000, lone surrogates, numbers beyond a double."""
    return dict(_find_problems(data, ""))


def _find_problems(value: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _find_problems(name, path or _WHOLE)
            yield from _find_problems(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_problems(item, f"{path}.{index}" if path else str(index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, [_("The number is too large.")]
    elif isinstance(value, str) and not _is_storable(value):
        yield _printable(path), [_("Text may hold neither U+0000 nor lone surrogates.")]


def _is_storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _printable(path: str) -> str:
    return path.replace("\x00", "�").encode("utf-8", "replace").decode()

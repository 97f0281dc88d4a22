"""What a body holds: bytes → records, or the rule that it broke. Pure functions.

The records are judged one by one, so that good ones beside a bad one are kept. The canonical text
of a record (sorted keys, no spaces) is what is hashed: two spellings of one record are one record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.parser import ParsedResult
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from ingest.configuration import RecordsPart

MAX_KEY_BYTES = 512
MAX_DEPTH = 100
MAX_TEXT = 20_000
# What the libraries raise on values that they did not expect, such as contains() of text and number
# in jmespath, or multipleOf of a number beyond float in jsonschema.
_UNFIT = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class Malformed(Exception):
    """A 2xx answer that is not what was promised. `kind` is stable, `reason` is for people."""

    def __init__(self, kind: str, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.index = index


@dataclass(frozen=True, slots=True)
class ParsedRecord:
    position: int
    key: str
    title: str
    body: str
    data: Any
    weight: float | None
    occurred_at: object
    content_hash: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer held. No record and no fault means that it was empty."""

    records: list[ParsedRecord]
    faults: list[Malformed]


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the records of a source's answers; built once per slice."""

    find_records: Callable[[Any], Any] | None
    find_key: Callable[[Any], Any]
    find_title: Callable[[Any], Any] | None
    find_body: tuple[Callable[[Any], Any], ...]
    find_occurred_at: Callable[[Any], Any] | None
    find_weight: Callable[[Any], Any] | None
    validator: Validator | None
    path: str | None
    key_path: str

    @classmethod
    def of(cls, part: RecordsPart) -> RecordReader:
        return cls(
            find_records=_finder(part.path) if part.path else None,
            find_key=_finder(part.key),
            find_title=_finder(part.title) if part.title else None,
            find_body=tuple(_finder(path) for path in part.body),
            find_occurred_at=_finder(part.occurred_at) if part.occurred_at else None,
            find_weight=_finder(part.weight) if part.weight else None,
            validator=_validator(part.schema_) if part.schema_ else None,
            path=part.path,
            key_path=part.key,
        )

    def read(self, body: bytes, charset: str | None) -> Reading:
        """The records of a whole 2xx body. Raises Malformed where the answer as a whole is bad."""
        if not body.strip():
            return Reading([], [])
        document = _parse(body, charset)
        if document is None or document == [] or document == {}:
            return Reading([], [])
        items = self._items(document)
        records: list[ParsedRecord] = []
        faults: list[Malformed] = []
        for position, item in enumerate(items):
            try:
                records.append(self._read_record(position, item))
            except Malformed as fault:
                faults.append(fault)
        return Reading(records, faults)

    def _items(self, document: Any) -> list[Any]:
        if self.find_records is None:
            found = document
        else:
            found = self.find_records(document)
            if found is None:
                if _has_last_key(document, self.path or ""):
                    return []
                raise Malformed("path_absent", f"nothing at records.path {self.path!r}")
        if isinstance(found, list):
            return found
        if isinstance(found, dict):
            # An empty object at a path is a record without content, which its key will tell.
            return [found]
        where = f"at records.path {self.path!r}" if self.path else "as the whole answer"
        raise Malformed(
            "path_scalar", f"{_type_name(found)} {where} where a list or an object was expected"
        )

    def _read_record(self, position: int, item: Any) -> ParsedRecord:
        if not isinstance(item, dict):
            raise Malformed(
                "record_not_object", f"record {position} is {_type_name(item)}", index=position
            )
        text = _canonical(item, position)
        self._validate(item, position)
        key = self._read_key(item, position)
        title = _text_of(self.find_title(item)) if self.find_title else ""
        title = title or key
        body = self._read_body(item, title)
        occurred_at = self.find_occurred_at(item) if self.find_occurred_at else None
        weight = _number(self.find_weight(item)) if self.find_weight else None
        seen = json.dumps([text, title, body, weight, str(occurred_at)], ensure_ascii=False)
        return ParsedRecord(
            position=position,
            key=key,
            title=title,
            body=body,
            data=item,
            weight=weight,
            occurred_at=occurred_at,
            content_hash=hashlib.blake2b(seen.encode(), digest_size=16).hexdigest(),
        )

    def _validate(self, item: Any, position: int) -> None:
        if self.validator is None:
            return
        try:
            error = next(self.validator.iter_errors(item), None)
        except (RecursionError, Unresolvable, *_UNFIT) as failure:
            raise Malformed(
                "schema",
                f"record {position}: the schema cannot be applied: {failure}"[:300],
                index=position,
            ) from failure
        if error is not None:
            raise Malformed("schema", _describe_violation(error, position), index=position)

    def _read_key(self, item: Any, position: int) -> str:
        value = self.find_key(item)
        if value is None or isinstance(value, bool | dict | list):
            raise Malformed(
                "key",
                f"record {position} has {_type_name(value)} at records.key {self.key_path!r}",
                index=position,
            )
        key = value if isinstance(value, str) else json.dumps(value)
        if len(key.encode()) > MAX_KEY_BYTES:
            raise Malformed(
                "key",
                f"record {position}: its key is longer than {MAX_KEY_BYTES} bytes",
                index=position,
            )
        return key

    def _read_body(self, item: Any, title: str) -> str:
        if self.find_body:
            parts = [_text_of(find(item)) for find in self.find_body]
        else:
            parts = [text for text in _leaves(item) if text != title]
        return "\n".join(part for part in parts if part)[:MAX_TEXT]


def _finder(path: str) -> Callable[[Any], Any]:
    """A JMESPath search; a plain name, by far the most common, is looked up directly."""
    if path.isidentifier():
        return lambda item: item.get(path) if isinstance(item, dict) else None
    compiled = jmespath.compile(path)

    def search(item: Any) -> Any:
        try:
            return compiled.search(item)
        except (jmespath.exceptions.JMESPathError, RecursionError, *_UNFIT) as error:
            raise Malformed("path_error", f"{path!r} cannot be applied: {error}"[:300]) from error

    return search


def _has_last_key(document: Any, path: str) -> bool:
    """True where the path's last key is there and null: the upstream said "nothing"."""
    last = jmespath.compile(path).parsed
    parent = document
    if last["type"] == "subexpression":
        *before, last = last["children"]
        try:
            for step in before:
                parent = ParsedResult(path, step).search(parent)
        except (jmespath.exceptions.JMESPathError, RecursionError, *_UNFIT):
            return False
    if last["type"] != "field" or not isinstance(parent, dict):
        return False
    return last["value"] in parent and parent[last["value"]] is None


@lru_cache(maxsize=64)
def _validator_of(schema_text: str) -> Validator:
    schema = json.loads(schema_text)
    # An empty registry: a schema must never make this server fetch an address.
    return validator_for(schema)(schema, registry=Registry())


def _validator(schema: dict[str, Any]) -> Validator:
    return _validator_of(json.dumps(schema, sort_keys=True))


def _describe_violation(error: ValidationError, position: int) -> str:
    where = "/".join(map(str, error.absolute_path)) or "the record itself"
    rule = "/".join(map(str, error.absolute_schema_path))
    return f"record {position}, {where}: {error.message[:200]} (rule {rule})"


class _HugeNumber:
    """Stands for a number that no program can keep; makes its record malformed, not its answer."""


def _parse(body: bytes, charset: str | None) -> Any:
    text = decode_body(body, charset)
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # A number with more digits than Python converts: a fault of its record alone.
            return json.loads(text, parse_int=_read_integer)
    except json.JSONDecodeError as error:
        raise Malformed("not_json", f"not JSON: {error.msg} (character {error.pos})") from error
    except RecursionError as error:
        raise Malformed("too_deep", "nested too deeply") from error


def _read_integer(digits: str) -> int | _HugeNumber:
    return int(digits) if len(digits) <= 4300 else _HugeNumber()


def decode_body(body: bytes, charset: str | None) -> str:
    """The text of a body: by its declared charset, else as JSON says (UTF-8, or by its BOM).

    Raises Malformed("undecodable").
    """
    if charset and charset.lower() not in {"utf-8", "utf8"}:
        encoding = charset
    else:
        encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding)
    except (ValueError, LookupError) as error:
        # Not UnicodeDecodeError alone: "undefined", or a name with a stray byte, raises others.
        raise Malformed("undecodable", f"cannot be decoded as {encoding}: {error}"[:300]) from error


def _canonical(item: Any, position: int) -> str:
    """The record's canonical JSON text; Malformed where it holds what cannot be stored."""
    try:
        text = json.dumps(
            item, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed(
            "surrogate", f"record {position} holds a lone surrogate", index=position
        ) from error
    except RecursionError as error:
        raise Malformed(
            "too_deep", f"record {position} is nested too deeply", index=position
        ) from error
    except TypeError as error:
        raise Malformed(
            "number", f"record {position} holds a number over 4,300 digits", index=position
        ) from error
    except ValueError as error:
        raise Malformed(
            "number", f"record {position} holds NaN or Infinity", index=position
        ) from error
    if "\\u0000" in text and any("\x00" in part for part in _texts(item)):
        raise Malformed("null_character", f"record {position} holds \\u0000", index=position)
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(item) > MAX_DEPTH:
        raise Malformed(
            "too_deep",
            f"record {position} is nested deeper than {MAX_DEPTH} levels",
            index=position,
        )
    return text


def _walk(item: Any) -> Iterator[tuple[int, Any]]:
    """(depth, node) of everything in a JSON value, object names included; without recursion."""
    stack: list[tuple[int, Any]] = [(1, item)]
    while stack:
        depth, node = stack.pop()
        yield depth, node
        if isinstance(node, dict):
            stack.extend((depth + 1, value) for value in reversed(node.values()))
            stack.extend((depth + 1, name) for name in node)
        elif isinstance(node, list):
            stack.extend((depth + 1, value) for value in reversed(node))


def _depth(item: Any) -> int:
    return max(depth for depth, _ in _walk(item))


def _texts(item: Any) -> Iterator[str]:
    return (node for _, node in _walk(item) if isinstance(node, str))


def _leaves(item: Any) -> Iterator[str]:
    """The texts and numbers of a record in order, without its field names."""
    stack: list[Any] = [item]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            stack.extend(reversed(node.values()))
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, str):
            yield node
        elif isinstance(node, int | float) and not isinstance(node, bool):
            yield str(node)


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if value is None:
        return ""
    return " ".join(_leaves(value))[:MAX_TEXT]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _type_name(value: Any) -> str:
    names: dict[type, str] = {
        dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number",
        float: "a number", type(None): "nothing",
    }  # fmt: skip
    return names.get(type(value), "a value that cannot be kept")

"""What a body holds: bytes → records, or the rule that it broke. Pure functions.

The records are judged one by one, so that good ones beside a bad one are kept. The canonical text
of a record (sorted keys, no spaces) is what is hashed: two spellings of one record are one record.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jmespath
import orjson
from jmespath.parser import ParsedResult

from ingest.configuration import RecordsPart
from ingest.schemas import RecordSchema, SchemaViolated, compile_schema
from ingest.secrets import KEPT_CHARACTERS

MAX_KEY_BYTES = 512
MAX_DEPTH = 100
MAX_TEXT = 20_000
# An answer of `[[],[],[],…` holds three million items in ten megabytes, and each would be told.
MAX_ITEMS = 100_000
BYTES_PER_ITEM = 40
MAX_FAULTS_TOLD = 20
QUOTED_CHARACTERS = 200
# ingest.schemas cuts the place of a fault in a record to as many.
_PLACE_CHARACTERS = 100
# What jmespath raises on values that it did not expect, such as contains() of text and number.
_UNFIT = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


Scrub = Callable[[Any], Any]
# (text, how many characters of it to show) → what may be shown
Show = Callable[[str, int], str]


class Malformed(Exception):
    """A 2xx answer that is not what was promised. `kind` is stable, `reason` is for people.

    What the reason quotes of the answer stands in `quoted`, after `begin` and before `end`: it may
    hold a secret, which is to be found before the quotation is cut. `tell` is what may be shown.
    """

    def __init__(
        self,
        kind: str,
        begin: str,
        *,
        index: int | None = None,
        quoted: str = "",
        end: str = "",
    ) -> None:
        self.kind = kind
        self.index = index
        self._begin, self._quoted, self._end = begin, quoted[:KEPT_CHARACTERS], end
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        return self.tell(lambda text, size: text[:size])

    def tell(self, show: Show) -> str:
        begin = show(self._begin, KEPT_CHARACTERS)
        return f"{begin}{show(self._quoted, QUOTED_CHARACTERS)}{self._end}"


class ParsedRecord(NamedTuple):
    """`data` is the record's canonical text; a tree of objects would be several times as large."""

    position: int
    key: str
    title: str
    body: str
    data: str
    weight: float | None
    occurred_at: object
    content_hash: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer held. No record and no fault means that it was empty.

    `faults` are the first of `fault_count`. `scrubbed` counts the records in which a secret of
    ours was found and replaced, `violating` those that have their key and break the schema alone.
    """

    records: list[ParsedRecord]
    faults: list[Malformed]
    fault_count: int = 0
    scrubbed: int = 0
    violating: int = 0


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the records of a source's answers; built once per slice."""

    find_records: Callable[[Any], Any] | None
    find_key: Callable[[Any], Any]
    find_title: Callable[[Any], Any] | None
    find_body: tuple[Callable[[Any], Any], ...]
    find_occurred_at: Callable[[Any], Any] | None
    find_weight: Callable[[Any], Any] | None
    schema: RecordSchema | None
    path: str | None
    key_path: str
    max_items: int = MAX_ITEMS

    @classmethod
    def of(cls, part: RecordsPart, *, max_body_bytes: int = 0) -> RecordReader:
        return cls(
            find_records=_finder(part.path) if part.path else None,
            find_key=_finder(part.key),
            find_title=_finder(part.title) if part.title else None,
            find_body=tuple(_finder(path) for path in part.body),
            find_occurred_at=_finder(part.occurred_at) if part.occurred_at else None,
            find_weight=_finder(part.weight) if part.weight else None,
            schema=compile_schema(part.schema_) if part.schema_ else None,
            path=part.path,
            key_path=part.key,
            max_items=max_body_bytes // BYTES_PER_ITEM,
        )

    def read(self, body: bytes, charset: str | None, *, scrub: Scrub | None = None) -> Reading:
        """The records of a whole 2xx body. Raises Malformed where the answer as a whole is bad.

        `scrub`, where the body may echo a secret, gives a record without it.
        """
        if not body or (text := decode_body(body, charset)).isspace() or not text:
            return Reading([], [])
        document = _parse(text)
        if document is None or document == [] or document == {}:
            return Reading([], [])
        items = self._items(document)
        if len(items) > max(MAX_ITEMS, self.max_items):
            raise Malformed("too_many", f"{len(items):,} records in one answer")
        records: list[ParsedRecord] = []
        faults: list[Malformed] = []
        fault_count = scrubbed = violating = 0
        for position, item in enumerate(items):
            try:
                record = self._read_record(position, item)
                if scrub is not None and (clean := scrub(item)) != item:
                    record = self._read_record(position, clean, is_known=True)
                    scrubbed += 1
                records.append(record)
            except Malformed as fault:
                fault_count += 1
                violating += fault.kind == "schema" and self._has_key(item, position)
                if fault_count <= MAX_FAULTS_TOLD:
                    faults.append(fault)
        return Reading(records, faults, fault_count, scrubbed, violating)

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

    def _read_record(self, position: int, item: Any, *, is_known: bool = False) -> ParsedRecord:
        if not isinstance(item, dict):
            raise Malformed(
                "record_not_object", f"record {position} is {_type_name(item)}", index=position
            )
        text = _canonical(item, position)
        if self.schema is not None and not is_known:
            self._validate(item, position, self.schema)
        key = self._read_key(item, position)
        title = _text_of(self.find_title(item)) if self.find_title else ""
        title = title or key
        body = self._read_body(item, title)
        occurred_at = self.find_occurred_at(item) if self.find_occurred_at else None
        weight = _number(self.find_weight(item)) if self.find_weight else None
        # No part can hold the character that joins them: what does is malformed.
        seen = "\0".join((text, title, body, str(weight), str(occurred_at)))
        return ParsedRecord(
            position=position,
            key=key,
            title=title,
            body=body,
            data=text,
            weight=weight,
            occurred_at=occurred_at,
            content_hash=hashlib.blake2b(seen.encode(), digest_size=16).hexdigest(),
        )

    def _validate(self, item: Any, position: int, schema: RecordSchema) -> None:
        try:
            schema.check(item)
        except SchemaViolated as violation:
            raise _name_violation(violation, position) from violation
        except (ValueError, RecursionError) as error:
            reason = f"record {position}: the schema cannot be applied: "
            raise Malformed("schema", reason, index=position, quoted=str(error)) from error

    def _read_key(self, item: Any, position: int) -> str:
        value = self.find_key(item)
        # Not only what JSON knows: `&id` finds an expression.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Malformed(
                "key",
                f"record {position} has {_type_name(value)} at records.key {self.key_path!r}",
                index=position,
            )
        key = value if isinstance(value, str) else _write_number(value)
        if len(key.encode()) > MAX_KEY_BYTES:
            raise Malformed(
                "key",
                f"record {position}: its key is longer than {MAX_KEY_BYTES} bytes",
                index=position,
            )
        return key

    def _has_key(self, item: Any, position: int) -> bool:
        try:
            self._read_key(item, position)
        except Malformed:
            return False
        return True

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
            reason = f"{path[:QUOTED_CHARACTERS]!r} cannot be applied: "
            raise Malformed("path_error", reason, quoted=str(error)) from error

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


def _name_violation(violation: SchemaViolated, position: int) -> Malformed:
    where = violation.path or "the record itself"
    if len(where) >= _PLACE_CHARACTERS:
        where = "a place with a long name"  # cut: its end may be half a secret
    text = "a pattern takes too long" if violation.is_given_up else violation.text
    return Malformed(
        "schema",
        f"record {position}, {where}: ",
        index=position,
        quoted=text,
        end=f" (rule {violation.rule})",
    )


class _HugeNumber:
    """Stands for a number that no program can keep; makes its record malformed, not its answer."""


def _parse(text: str) -> Any:
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


def decode_body(body: bytes, charset: str | None, *, errors: str = "strict") -> str:
    """The text of a body: by its byte order mark, else its declared charset, else as JSON says.

    Raises Malformed("undecodable").
    """
    encoding = _encoding_of(body, charset)
    try:
        return body.decode(encoding, errors)
    except (ValueError, LookupError) as error:
        # Not UnicodeDecodeError alone: "undefined", or a name with a stray byte, raises others.
        reason = f"cannot be decoded as {encoding}: "
        raise Malformed("undecodable", reason, quoted=str(error)) from error


def _encoding_of(body: bytes, charset: str | None) -> str:
    # No charset writes "[" or "{" as these bytes: the mark is right, whatever the header says.
    if body.startswith(_MARKS) or charset is None or charset.lower() in {"utf-8", "utf8"}:
        return json.detect_encoding(body)
    if len(charset) > MAX_CHARSET:
        raise _name_charset(charset)
    try:
        # By the codec's own name: Python reads "punycode!" and "_punycode" as the same.
        name = codecs.lookup(charset).name.replace("_", "-")
    except (LookupError, ValueError):
        name = ""
    if not name or name in _NO_CHARSETS:
        raise _name_charset(charset)
    return charset


def _name_charset(charset: str) -> Malformed:
    return Malformed("undecodable", "", quoted=repr(charset), end=" is no charset")


_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
MAX_CHARSET = 40
# Python's own, some of which take quadratic time.
_NO_CHARSETS = frozenset(
    {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}
)  # fmt: skip


def _canonical(item: Any, position: int) -> str:
    """The record's canonical JSON text; Malformed where it holds what cannot be stored."""
    try:
        text = orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        text = ""
    # orjson writes NaN as null, and refuses whole numbers beyond 64 bits.
    if not text or "null" in text:
        text = _canonical_of_any(item, position)
    if "\\u0000" in text and any("\x00" in part for part in _texts(item)):
        raise Malformed("null_character", f"record {position} holds \\u0000", index=position)
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(item) > MAX_DEPTH:
        raise Malformed(
            "too_deep",
            f"record {position} is nested deeper than {MAX_DEPTH} levels",
            index=position,
        )
    return text


def _canonical_of_any(item: Any, position: int) -> str:
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


def _leaves(item: Any) -> list[str]:
    """The texts and numbers of a record in order, without its field names."""
    leaves: list[str] = []
    stack: list[Any] = [item]
    while stack:
        node = stack.pop()
        kind = type(node)  # what JSON makes has no subclasses
        if kind is str:
            leaves.append(node)
        elif kind is int or kind is float:
            leaves.append(str(node))
        elif kind is dict:
            stack.extend(reversed(node.values()))
        elif kind is list:
            stack.extend(reversed(node))
    return leaves


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if value is None:
        return ""
    if isinstance(value, list):
        try:
            return " ".join(value)[:MAX_TEXT]
        except TypeError:
            pass  # not texts alone
    return " ".join(_leaves(value))[:MAX_TEXT]


def _write_number(value: Any) -> str:
    return str(value) if type(value) is int else json.dumps(value)


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

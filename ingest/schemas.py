"""JSON Schemas of sources, compiled so that none can do harm.

No address is ever fetched for a `$ref`. Patterns run in linear time; those with look-around or back
references, which cannot, are given up after a bounded number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind

# A few milliseconds.
PATTERN_STEPS = 100_000


class SchemaInvalid(ValueError):
    """The schema itself cannot be used; the text says where and why."""


class SchemaViolated(Exception):
    """A value breaks the schema: `path` in the value, the `rule` as a path in the schema."""

    def __init__(self, error: jsonschema_rs.ValidationError) -> None:
        self.path = "/".join(map(str, error.instance_path))[:100]
        self.rule = "/".join(map(str, error.schema_path))[:200]
        kind = error.kind
        self.is_given_up = isinstance(
            kind,
            ValidationErrorKind.BacktrackLimitExceeded | ValidationErrorKind.RegexEngineFailure,
        )
        self.text = error.message
        super().__init__(self.rule)


class RecordSchema:
    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def check(self, value: Any) -> None:
        """Raises SchemaViolated with the first rule that the value breaks."""
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            raise SchemaViolated(error) from None


def compile_schema(schema: Mapping[str, Any]) -> RecordSchema:
    """Raises SchemaInvalid: it breaks its own meta-schema, or refers to what is not inside it."""
    return _compile(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=64)
def _compile(schema_text: str) -> RecordSchema:
    try:
        return RecordSchema(
            jsonschema_rs.validator_for(
                json.loads(schema_text),
                offline=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=PATTERN_STEPS),
            )
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaInvalid(_describe_fault(error)) from None
    except (ValueError, RecursionError) as error:
        raise SchemaInvalid(str(error)) from error


def _describe_fault(error: jsonschema_rs.ValidationError) -> str:
    if isinstance(error.kind, ValidationErrorKind.Referencing):
        return f"{error.message}; only references inside the schema are followed."
    where = "/".join(map(str, error.instance_path))
    return f"{where}: {error.message}" if where else error.message

"""What is wrong with a configuration, by the path that its writer sees, in words of JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

# The tags of the union of plans stand in pydantic's paths; the JSON has no such keys.
PLAN_TYPES = frozenset({"range", "values"})

_MESSAGES = {
    "missing": "is required.",
    "extra_forbidden": "is not a known key.",
    "model_type": "must be a JSON object.",
    "model_attributes_type": "must be a JSON object.",
    "dict_type": "must be a JSON object.",
    "tuple_type": "must be a list.",
    "list_type": "must be a list.",
    "string_type": "must be text.",
    "int_type": "must be a whole number.",
    "int_from_float": "must be a whole number.",
    "float_type": "must be a number.",
    "bool_type": "must be true or false.",
    "too_short": "must have at least {min_length} item.",
    "too_long": "must have at most {max_length} items.",
    "string_too_short": "must not be empty.",
    "string_too_long": "must have at most {max_length} characters.",
    "greater_than": "must be greater than {gt}.",
    "greater_than_equal": "must be at least {ge}.",
    "less_than_equal": "must be at most {le}.",
    "literal_error": "must be {expected}.",
}
# Where one may stand for a list of one.
_ONE_OR_SEVERAL: dict[tuple[int | str, ...], str] = {
    ("request", "api_key"): "must be a JSON object or a list of them.",
    ("records", "body"): "must be a path or a list of paths.",
}
Steps = list[int | str]


def name_faults(error: ValidationError, written: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each fault of `written`, the JSON that was parsed, by its dotted path."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False, include_input=False):
        steps, message = _name_fault(fault)
        path = ".".join(map(str, _as_written(steps, written))) or "configuration"
        if message not in faults.setdefault(path, []):
            faults[path].append(message)
    return faults


def _name_fault(fault: Any) -> tuple[Steps, str]:
    location, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    if kind == "invalid_at":
        return list(context["steps"]), context["reason"]
    steps = [
        step
        for index, step in enumerate(location)
        if not (index == 1 and location[0] == "plan" and step in PLAN_TYPES)
    ]
    if kind == "union_tag_invalid":
        return ["plan", "type"], (
            "must be range or values; walks are not available in this version."
        )
    if kind == "union_tag_not_found":
        return ["plan", "type"], "is required: range or values."
    if kind == "tuple_type" and tuple(steps) in _ONE_OR_SEVERAL:
        return steps, _ONE_OR_SEVERAL[tuple(steps)]
    if kind == "string_pattern_mismatch":
        return steps, "must be lower-case letters, digits, - and _ only, at most 64."
    if kind in _MESSAGES:
        return steps, _MESSAGES[kind].format(**context)
    return steps, fault["msg"]


def _as_written(steps: Steps, written: Any) -> Steps:
    """Without the steps that only the typed form has: where one may be written for a list of one,
    or a text for an object."""
    path: Steps = []
    node = written
    for step in steps:
        if isinstance(step, int) and not isinstance(node, list | tuple):
            continue
        if isinstance(step, str) and isinstance(node, str):
            break
        path.append(step)
        if isinstance(node, Mapping):
            node = node.get(step)
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            node = node[step]
    return path

"""A source's configuration: JSON → frozen, typed models; every fault is named by its path.

The JSON layout is used by other people's programs. Keys that this version cannot honour yet are
refused by name, never ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from yarl import URL

from ingest.cron import CronInvalid, parse_cron
from ingest.errors import ConfigurationInvalid
from ingest.faults import name_faults
from ingest.outcomes import Outcome
from ingest.schemas import SchemaInvalid, compile_schema

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SECRET_NAME = re.compile(
    r"auth|cookie|token|secret|passw|credential|signature|session|api[-_]?key|^key$|-key$", re.I
)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The DNS takes underscores, and so do many inner networks.
HOST_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
# A tab is the one that a header may hold (RFC 9110 §5.5).
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# They are about the connection or the body (RFC 9110 §7.6.1), which are the client's.
CLIENT_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
MAX_PLANNED = 5_000_000
MAX_DEPTH = 60
# An expression that writes fifty fields and more beside each other means no harm.
MAX_GROWTH = 100
MAX_HOST = 253  # characters of a name (RFC 1035)
# What every JSON reader and both databases keep.
MAX_INTEGER = 2**63 - 1
# How a configuration is read (pydantic's context): as its writer sent it; as it is stored, for
# which rules that came later do not hold; to name addresses only.
WRITTEN = "written"
STORED = "stored"
WITHOUT_SECRETS = "without secrets"


class _Part(BaseModel):
    # Its inputs are secrets, and errors end in tracebacks and logs.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _fault(message: str) -> PydanticCustomError:
    # A custom error's message is a template: braces in it are doubled.
    return PydanticCustomError("invalid", "{reason}", {"reason": message})


def _misplaced(steps: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """A fault of the whole that is named where it stands."""
    return PydanticCustomError("invalid_at", "{reason}", {"reason": message, "steps": steps})


def _check_path(path: str, info: ValidationInfo) -> str:
    try:
        parsed = jmespath.compile(path).parsed
    except JMESPathError as error:
        first_line = str(error).splitlines()[0]
        raise _fault(f"is not a JMESPath expression: {first_line}") from error
    if info.context == WRITTEN:
        _check_references(parsed)
        if _growth_of(parsed) > MAX_GROWTH:
            raise _fault(f"may make what it finds more than {MAX_GROWTH} times as large.")
    return path


def _growth_of(parsed: Any) -> int:
    """How many times as large as its input a value on the way of an expression may become.

    `[@, @] | [@, @] | …` doubles it at each step: five hundred characters would keep a worker busy
    for ever, and take all its memory.
    """
    nodes: list[Any] = [parsed]
    growth: dict[int, int] = {}
    for node in nodes:
        nodes.extend(_parts_of(node))
    for node in reversed(nodes):
        parts = [growth[id(part)] for part in _parts_of(node)]
        growth[id(node)] = max(1, _GROWTH.get(_kind_of(node), max)(parts or [1]))
    return growth[id(parsed)]


def _kind_of(node: Any) -> str:
    name: str = node["value"] if node["type"] == "function_expression" else node["type"]
    is_each = any(part["type"] == "expref" for part in _parts_of(node))
    return "projection" if is_each else name


# What one of its parts finds is what the next one is given, or all of them stand in the result.
_GROWTH: dict[str, Callable[[list[int]], int]] = {
    **dict.fromkeys(("pipe", "subexpression", "index_expression", "join"), math.prod),
    **dict.fromkeys(("projection", "value_projection"), math.prod),
    **dict.fromkeys(("multi_select_list", "multi_select_dict", "merge"), sum),
    "filter_projection": lambda parts: parts[0] * max(parts[1:]),
    "to_string": lambda parts: 2 * parts[0],  # quotes are escaped, and escapes again
}


def _parts_of(node: Any) -> list[Any]:
    """The nodes right below a node of a parsed expression, without the numbers of slices."""
    return [child for child in node["children"] if isinstance(child, dict)]


def _check_references(parsed: Any) -> None:
    """An expression reference (&) is a function's argument; as a value it is nothing."""
    stack = [(parsed, False)]
    while stack:
        node, is_argument = stack.pop()
        if node["type"] == "expref" and not is_argument:
            raise _fault("has an expression reference (&) where a value is asked for.")
        is_call = node["type"] == "function_expression"
        if is_call:
            _check_call(node["value"], node["children"])
        stack.extend((part, is_call) for part in _parts_of(node))


def _check_call(name: str, arguments: list[Any]) -> None:
    """Whether JMESPath has such a function of so many arguments; their types come with the data."""
    if name not in Functions.FUNCTION_TABLE:
        raise _fault(f"calls {name}(), which JMESPath does not know.")
    signature = Functions.FUNCTION_TABLE[name]["signature"]
    least = len(signature)
    is_open = signature[-1].get("variadic", False)
    if len(arguments) < least or (len(arguments) > least and not is_open):
        wanted = f"at least {least}" if is_open else str(least)
        raise _fault(f"calls {name}() with {len(arguments)} arguments; it takes {wanted}.")
    for index, argument in enumerate(arguments):
        takes_reference = "expref" in signature[min(index, least - 1)]["types"]
        if takes_reference != (argument["type"] == "expref"):
            kind = "an expression reference (&)" if takes_reference else "a value"
            raise _fault(
                f"calls {name}() with a wrong argument {index + 1}: it takes {kind} there."
            )


def _check_finite_text(text: str) -> str:
    if "\x00" in text or not text.isprintable():
        raise _fault("has a character that cannot be sent.")
    return text


Path = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_path)]
Text = Annotated[str, AfterValidator(_check_finite_text)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(lambda v: _as_float(v))]


def _as_float(value: object) -> object:
    """JSON knows one kind of number: 5 is a float where a float is asked for."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_slug(slug: str) -> str:
    if slug == "new":
        raise _fault("is the address of the form for a new source; choose another.")
    return slug


def _check_url(url: str, info: ValidationInfo) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
        # Connections are opened by this parser; what it cannot read, nobody can ask.
        host = URL(url).origin().raw_host or ""
    except ValueError as error:
        raise _fault(f"is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise _fault("must be an http:// or https:// URL with a host.")
    if info.context == WRITTEN:
        _check_host(host)
    return url


def _check_host(host: str) -> None:
    """Whether a host, as connections are opened to it, is an IP address or could be in the DNS."""
    name = host.removesuffix(".")
    if _is_ip_address(host):
        return
    if len(name) > MAX_HOST or not all(map(HOST_LABEL.fullmatch, name.split("."))):
        raise _fault(f"{host[:80]!r} is not a host name.")


def _check_header_name(name: str) -> None:
    if not HEADER_NAME.fullmatch(name):
        raise _fault(f"{name!r} is not a header name.")
    if name.lower() in CLIENT_HEADERS:
        raise _fault(f"{name!r} is a header that the client sets itself.")


class ApiKey(_Part):
    place: Literal["header", "query"] = Field(alias="in")
    name: Text = Field(min_length=1, max_length=200)
    secret: Text = Field(min_length=1, max_length=4000)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str, info: ValidationInfo) -> str:
        if info.context == WRITTEN and info.data.get("place") == "header":
            _check_header_name(name)
        return name


class Proxy(_Part):
    http: Text | None = None
    https: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_url_serves_both(cls, value: object) -> object:
        return {"http": value, "https": value} if isinstance(value, str) else value

    @field_validator("http", "https")
    @classmethod
    def _check(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _check_url(value, info)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if not (self.http or self.https):
            raise _fault("needs a URL under `http`, `https` or both.")
        return self


class RequestPart(_Part):
    url: Text = Field(min_length=1, max_length=4000)
    method: Literal["GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "DELETE"] = "GET"
    headers: dict[str, Text] = Field(default_factory=dict, max_length=100)
    params: dict[str, Text] = Field(default_factory=dict, max_length=100)
    timeout_seconds: Number = Field(default=30.0, gt=0, le=3600)
    proxies: tuple[Proxy, ...] = Field(default=(), max_length=1000, strict=False)
    api_key: tuple[ApiKey, ...] = Field(default=(), max_length=100, strict=False)

    @field_validator("params", mode="before")
    @classmethod
    def _scalars_as_text(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: str(item)
            if isinstance(item, int | float) and not isinstance(item, bool)
            else item
            for name, item in value.items()
        }

    @field_validator("api_key", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, dict) else value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        seen: dict[str, str] = {}
        for name in value if info.context == WRITTEN else ():
            _check_header_name(name)
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise _fault(f"{name!r} is the same header as {other!r}.")
        return value

    @model_validator(mode="after")
    def _check_key_names(self, info: ValidationInfo) -> Self:
        headers = {name.lower() for name in self.headers}
        for index, key in enumerate(self.api_key if info.context == WRITTEN else ()):
            is_header = key.place == "header"
            if key.name.lower() in headers if is_header else key.name in self.params:
                raise _misplaced(
                    ("request", "api_key", index, "name"),
                    f"{key.name!r} stands in request.{'headers' if is_header else 'params'}, too.",
                )
        return self

    @field_validator("url")
    @classmethod
    def _check_address(cls, url: str, info: ValidationInfo) -> str:
        _check_url(PLACEHOLDER.sub("x", url), info)
        parts = urlsplit(url)
        if PLACEHOLDER.search(parts.netloc):
            raise _fault("may have a placeholder in path and query, not in the host.")
        if "@" in parts.netloc:
            raise _fault("must not carry a user or password; use headers or api_key.")
        for name, value in parse_qsl(parts.query):
            if SECRET_NAME.search(name) and not PLACEHOLDER.search(value):
                raise _fault(f"{name!r} looks like a secret; put it under request.api_key.")
        return url

    @property
    def origin(self) -> tuple[str, str, int]:
        """(scheme, host, port) of the upstream."""
        return origin_of(self.url)

    def placeholders(self) -> dict[tuple[str, ...], set[str]]:
        """The names of placeholders, by where they stand."""
        texts: dict[tuple[str, ...], str] = {("url",): self.url}
        texts |= {("params", name): text for name, text in self.params.items()}
        texts |= {("headers", name): text for name, text in self.headers.items()}
        return {place: set(PLACEHOLDER.findall(text)) for place, text in texts.items()}

    def varies_by(self, name: str) -> bool:
        """Whether what is sent has the placeholder. A fragment is never sent."""
        texts = (self.url.partition("#")[0], *self.params.values(), *self.headers.values())
        return any(name in PLACEHOLDER.findall(text) for text in texts)


def origin_of(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) by the parser that connections are opened by: IDNA, lower case, IP
    addresses in their short form without brackets, names without the dot of the root. One host has
    one budget in every spelling."""
    try:
        parsed = URL(url)
        host = (parsed.raw_host or "").removesuffix(".")
        short = ip_address(host).compressed if _is_ip_address(host) else host
        return parsed.scheme, short, parsed.port or 0
    except ValueError:
        # Nobody connects to it, but what is stored must be readable.
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), 443 if parts.scheme == "https" else 80


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class RangePlan(_Part):
    type: Literal["range"]
    name: str = Field(min_length=1, max_length=100)
    start: int
    stop: int
    step: int = Field(default=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.step == 0:
            raise _fault("step must not be 0.")
        if not self.numbers():
            raise _fault(f"from {self.start} to {self.stop} by {self.step} names no request.")
        if abs(self.stop - self.start) // abs(self.step) >= MAX_PLANNED:  # len() overflows
            raise _fault(f"names more than {MAX_PLANNED:,} requests.")
        return self

    def numbers(self) -> range:
        return range(self.start, self.stop + (1 if self.step > 0 else -1), self.step)

    def count(self) -> int:
        return len(self.numbers())

    def keys(self) -> Iterator[str]:
        return map(str, self.numbers())


class ValuesPlan(_Part):
    type: Literal["values"]
    name: str = Field(min_length=1, max_length=100)
    values: tuple[str | int | Number, ...] = Field(
        min_length=1, max_length=MAX_PLANNED, strict=False
    )

    @field_validator("values", mode="before")
    @classmethod
    def _check_scalars(cls, values: object) -> object:
        # One fault for all of them: a long list of wrong values would have millions.
        if isinstance(values, list | tuple):
            for index, value in enumerate(values):
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise _fault(f"values[{index}] must be text or a number.")
        return values

    @field_validator("values")
    @classmethod
    def _check_once(cls, values: tuple[str | int | float, ...]) -> tuple[str | int | float, ...]:
        seen: dict[str, int] = {}
        for index, value in enumerate(values):
            text = str(value)
            if not text:
                raise _fault(f"values[{index}] is empty.")
            if "\x00" in text or not _is_encodable(text):
                raise _fault(f"values[{index}] has a character that cannot be sent.")
            if text in seen:
                raise _fault(f"values[{index}] repeats values[{seen[text]}]: {text[:80]!r}.")
            seen[text] = index
        return values

    def count(self) -> int:
        return len(self.values)

    def keys(self) -> Iterator[str]:
        return map(str, self.values)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Plan = Annotated[RangePlan | ValuesPlan, Field(discriminator="type")]


class RecordsPart(_Part):
    path: Path | None = None
    key: Path = "id"
    title: Path | None = None
    body: tuple[Path, ...] = Field(default=(), strict=False, max_length=50)
    occurred_at: Path | None = None
    weight: Path | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")

    @field_validator("body", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("schema_")
    @classmethod
    def _check_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            compile_schema(schema)
        except SchemaInvalid as error:
            raise _fault(f"is not a JSON Schema: {error}"[:500]) from error
        return schema


def _at_least(least: float) -> AfterValidator:
    def check(value: float, info: ValidationInfo) -> float:
        if info.context == WRITTEN and value < least:
            raise _fault("must be at least " + f"{least:f}".rstrip("0") + ".")
        return value

    return AfterValidator(check)


Span = Annotated[Number, Field(gt=0, le=31 * 86_400), _at_least(1e-3)]
# A request in 11 days: a run with less would seem to hang.
Rate = Annotated[Number, Field(gt=0, le=100_000), _at_least(1e-6)]


class Window(_Part):
    """Never more than `requests` sends in any span of `seconds`."""

    requests: int = Field(ge=1, le=100_000)
    seconds: Span


class Batch(_Part):
    """After `requests` sends, `pause_seconds` without one."""

    requests: int = Field(ge=1, le=1_000_000)
    pause_seconds: Span


class Quota(_Part):
    """Never more than `requests` sends in a calendar period (UTC)."""

    requests: int = Field(ge=1, le=10**12)
    per: Literal["hour", "day", "month"]


class LimitsPart(_Part):
    """All limits hold together; None is no limit of that kind."""

    per_second: Rate | None = 5.0
    concurrency: int = Field(default=5, ge=1, le=1000)
    window: Window | None = None
    batch: Batch | None = None
    quota: Quota | None = None
    deadline_seconds: Number = Field(default=3600.0, gt=0, le=31_536_000)
    max_body_bytes: int = Field(default=10_000_000, ge=1, le=1_000_000_000)


AcceptedOutcome = Literal[
    "empty", "malformed", "missing", "denied", "refused", "blocked", "failed", "cancelled"
]


class RetryPart(_Part):
    attempts: int | None = Field(default=5, ge=1, le=1_000_000)
    base_seconds: Number = Field(default=1.0, gt=0, le=3600)
    cap_seconds: Number = Field(default=60.0, gt=0, le=86_400)
    sweeps: int = Field(default=1, ge=0, le=100)
    missing: bool = False
    accept: tuple[AcceptedOutcome, ...] = Field(default=(), strict=False)


def _check_marker(marker: str, info: ValidationInfo) -> str:
    if info.context == WRITTEN and not marker.strip():
        raise _fault("is blank, which tells nothing.")
    return marker


Marker = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_marker)]


class BlockPart(_Part):
    patience: int = Field(default=5, ge=1, le=1_000_000)
    markers: tuple[Marker, ...] = Field(
        default=("banned", "blocked", "denied"), strict=False, max_length=100
    )
    patience_429: int = Field(default=50, ge=1, le=1_000_000)
    patience_5xx: int = Field(default=50, ge=1, le=1_000_000)


def _check_schedule(text: str) -> str:
    try:
        parse_cron(text)
    except CronInvalid as error:
        raise _fault(str(error)) from error
    return text


Schedule = Annotated[str, Field(max_length=500), AfterValidator(_check_schedule)]


class SourceConfiguration(_Part):
    """The whole configuration of a source, valid in itself."""

    slug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"), AfterValidator(_check_slug)]
    name: str = Field(default="", max_length=200)
    request: RequestPart
    plan: Plan
    records: RecordsPart = RecordsPart()
    limits: LimitsPart = LimitsPart()
    retry: RetryPart = RetryPart()
    block: BlockPart = BlockPart()
    schedule: Schedule | None = None

    @model_validator(mode="after")
    def _check_placeholders(self, info: ValidationInfo) -> Self:
        if info.context == WITHOUT_SECRETS:
            return self  # the placeholder may stand in what was taken out
        name = self.plan.name
        used = self.request.placeholders()
        for place, names in used.items():
            for unknown in sorted(names - {name}):
                raise _misplaced(
                    ("request", *place),
                    f"{{{unknown}}} is not a placeholder of the plan; it provides {{{name}}}.",
                )
        if not self.request.varies_by(name):
            raise _misplaced(
                ("plan", "name"),
                f"{{{name}}} appears neither in request.url nor in request.params or "
                "request.headers, so that all requests would be the same.",
            )
        if isinstance(self.plan, ValuesPlan) and info.context == WRITTEN:
            self._check_segments(self.plan)
            self._check_header_values(self.plan)
        return self

    def _check_segments(self, plan: ValuesPlan) -> None:
        """A path segment of dots is taken out of every URL, also percent-encoded (RFC 3986 §5.2.4):
        the request would go elsewhere."""
        mark = f"{{{plan.name}}}"
        path = re.sub("%2e", ".", urlsplit(self.request.url).path, flags=re.I)
        segments = [segment for segment in path.split("/") if mark in segment]
        for dots in (".", ".."):
            is_lost = any(segment.replace(mark, dots) in {".", ".."} for segment in segments)
            if is_lost and dots in plan.values:
                index = plan.values.index(dots)
                raise _misplaced(
                    ("plan", "values"), f"values[{index}] is {dots!r}, which no path can hold."
                )

    def _check_header_values(self, plan: ValuesPlan) -> None:
        mark = f"{{{plan.name}}}"
        if not any(mark in text for text in self.request.headers.values()):
            return
        for index, value in enumerate(plan.values):
            if isinstance(value, str) and CONTROL.search(value):
                raise _misplaced(
                    ("plan", "values"),
                    f"values[{index}] has a character that no header can hold.",
                )

    @property
    def accepted(self) -> frozenset[Outcome]:
        return frozenset(Outcome(value) for value in self.retry.accept)

    def as_json(self) -> dict[str, Any]:
        """The configuration with every default spelled out, secrets included."""
        data = self.model_dump(mode="json", by_alias=True)
        data["name"] = data["name"] or self.slug
        keys = data["request"]["api_key"]
        data["request"]["api_key"] = keys[0] if len(keys) == 1 else keys or None
        data["records"]["body"] = data["records"]["body"] or None
        return data


def parse_configuration(data: object, *, context: str = WRITTEN) -> SourceConfiguration:
    """The typed configuration, or ConfigurationInvalid naming each fault by its dotted path."""
    if not isinstance(data, Mapping):
        raise ConfigurationInvalid({"configuration": ["must be a JSON object."]})
    check_storable(data)
    try:
        return SourceConfiguration.model_validate(data, context=context)
    except ValidationError as error:
        raise ConfigurationInvalid(name_faults(error, data)) from error
    except RecursionError as error:
        raise ConfigurationInvalid({"configuration": ["is nested too deeply."]}) from error


def check_storable(data: Mapping[str, Any]) -> None:
    """Raises ConfigurationInvalid where a value, wherever it stands, cannot be kept as JSON."""
    stack: list[tuple[tuple[object, ...], object]] = [((), data)]
    while stack:
        path, node = stack.pop()
        if len(path) > MAX_DEPTH:
            raise _fault_at(path[:3], "is nested too deeply.")
        if isinstance(node, Mapping):
            for name, value in node.items():
                _check_leaf(path, name)
                stack.append(((*path, name), value))
        elif isinstance(node, list | tuple):
            # Long lists are values of a plan, which are checked one by one by their own rule.
            if len(path) < 2 or path[:2] != ("plan", "values"):
                stack.extend(((*path, index), value) for index, value in enumerate(node))
        else:
            _check_leaf(path, node)


def _check_leaf(path: tuple[object, ...], value: object) -> None:
    if isinstance(value, str) and ("\x00" in value or not _is_encodable(value)):
        raise _fault_at(path, "has a character that cannot be stored.")
    if isinstance(value, float) and not math.isfinite(value):
        raise _fault_at(path, "is not a finite number.")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise _fault_at(path, "is too large a number.")


def _fault_at(path: tuple[object, ...], message: str) -> ConfigurationInvalid:
    dotted = ".".join(str(step).encode("utf-8", "replace").decode() for step in path)
    return ConfigurationInvalid({dotted.replace("\x00", "?") or "configuration": [message]})


def merge_patch(target: object, patch: object) -> object:
    """RFC 7396: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged

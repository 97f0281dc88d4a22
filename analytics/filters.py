"""What a dashboard is asked to show: its filters, as they stand in the address.

Read by the page and by the callback alike, so that the table and the charts are of the same thing.
A value that makes no sense is left out and named in `ignored`; a chart is no place for a 400.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from urllib.parse import parse_qs, urlencode

from ingest.outcomes import Outcome

MAX_SLOTS = 500
# Slots begin at whole multiples since a Monday, so that weeks begin on Mondays, days at midnight.
ORIGIN = datetime(1970, 1, 5, tzinfo=UTC)

MINUTE, HOUR, DAY, WEEK = 60, 3_600, 86_400, 604_800
_WIDTHS = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, WEEK)

PRESETS: Mapping[str, timedelta] = MappingProxyType(
    {
        "1h": timedelta(hours=1),
        "24h": timedelta(hours=24),
        "7d": timedelta(days=7),
        "30d": timedelta(days=30),
    }
)
DEFAULT_PRESET = "24h"

# What a send can end in. (Planned and cancelled rows were never answered.)
SEND_OUTCOMES = (
    Outcome.DELIVERED,
    Outcome.EMPTY,
    Outcome.MALFORMED,
    Outcome.MISSING,
    Outcome.DENIED,
    Outcome.REFUSED,
    Outcome.BLOCKED,
    Outcome.FAILED,
)

_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_SLUG = re.compile(r"[-a-zA-Z0-9_]{1,64}", re.ASCII)
_MAX_SOURCES = 100


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time cut into `count` slots of `width_seconds`, from slot border to border."""

    since: datetime
    width_seconds: int
    count: int

    @property
    def until(self) -> datetime:
        return self.since + timedelta(seconds=self.width_seconds * self.count)

    @property
    def first_slot(self) -> int:
        return int((self.since - ORIGIN).total_seconds()) // self.width_seconds

    def start_of(self, index: int) -> datetime:
        """When the index-th slot begins; `start_of(count)` is the end."""
        return self.since + timedelta(seconds=self.width_seconds * index)


@dataclass(frozen=True, slots=True)
class Filters:
    """`since` and `until` (UTC), where given, go before the preset. Empty tuples mean all."""

    preset: str = DEFAULT_PRESET
    since: datetime | None = None
    until: datetime | None = None
    sources: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def is_fixed(self) -> bool:
        """Whether the time stands still instead of ending now."""
        return self.until is not None

    def period(self, now: datetime) -> Period:
        """The slots to draw at `now`, at most MAX_SLOTS of them."""
        until = self.until or now
        since = self.since or until - PRESETS[self.preset]
        return cut_period(since, until, is_open=not self.is_fixed)

    def as_query(self) -> str:
        """The address's query string, in one canonical form; the defaults are left out."""
        items = {
            "range": self.preset if self.preset != DEFAULT_PRESET else "",
            "since": _format(self.since),
            "until": _format(self.until),
            "source": ",".join(self.sources),
            "outcome": ",".join(self.outcomes),
        }
        return urlencode({name: value for name, value in items.items() if value}, safe=",:")


def cut_period(since: datetime, until: datetime, *, is_open: bool) -> Period:
    """The finest slots of which MAX_SLOTS suffice. An open period ends with the slot of `until`."""
    seconds = max((until - since).total_seconds(), MINUTE)
    width = next((width for width in _WIDTHS if seconds / width <= MAX_SLOTS - 2), 0)
    if not width:
        width = WEEK * -(-int(seconds) // (WEEK * (MAX_SLOTS - 2)))
    if is_open:
        last = _floor(until, width)
        count = max(round(seconds / width), 1)
        return Period(last - timedelta(seconds=width * (count - 1)), width, count)
    first = _floor(since, width)
    count = -(-int((until - first).total_seconds()) // width)
    return Period(first, width, max(count, 1))


def read_filters(query: str | Mapping[str, Sequence[str]]) -> Filters:
    """The filters of a query string, or of `dict(request.GET.lists())`."""
    given = parse_qs(query.lstrip("?")) if isinstance(query, str) else query
    last = {name: values[-1] for name, values in given.items() if values and values[-1]}
    ignored: list[str] = []
    since, until = _read_times(last, ignored)
    return Filters(
        preset=_read_preset(last.get("range", ""), ignored),
        since=since,
        until=until,
        sources=_read_list("source", last, ignored, is_known=_is_slug)[:_MAX_SOURCES],
        outcomes=_read_list("outcome", last, ignored, is_known=_is_send_outcome),
        ignored=tuple(ignored),
    )


def _read_preset(value: str, ignored: list[str]) -> str:
    if value and value not in PRESETS:
        ignored.append("range")
    return value if value in PRESETS else DEFAULT_PRESET


def _read_times(
    last: Mapping[str, str], ignored: list[str]
) -> tuple[datetime | None, datetime | None]:
    times: dict[str, datetime] = {}
    for name in ("since", "until"):
        if name in last:
            moment = _read_time(last[name])
            if moment is None:
                ignored.append(name)
            else:
                times[name] = moment
    since, until = times.get("since"), times.get("until")
    if since and until and since >= until:
        ignored += ["since", "until"]
        return None, None
    return since, until


def _read_time(text: str) -> datetime | None:
    try:
        # In a query string an unescaped + arrives as a space: 2026-01-01T00:00:00 02:00
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _EARLIEST <= moment <= _LATEST else None


def _read_list(
    name: str, last: Mapping[str, str], ignored: list[str], *, is_known: Callable[[str], bool]
) -> tuple[str, ...]:
    values = {value.strip() for value in last.get(name, "").split(",") if value.strip()}
    known = {value for value in values if is_known(value)}
    if known != values:
        ignored.append(name)
    return tuple(sorted(known))


def _is_slug(value: str) -> bool:
    return _SLUG.fullmatch(value) is not None


def _is_send_outcome(value: str) -> bool:
    return value in SEND_OUTCOMES


def _format(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def _floor(moment: datetime, width_seconds: int) -> datetime:
    seconds = int((moment - ORIGIN).total_seconds())
    return ORIGIN + timedelta(seconds=seconds // width_seconds * width_seconds)

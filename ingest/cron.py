"""Cron texts of five fields, read the way Celery's beat will keep them. Pure.

What cron means differently from beat is refused, not reinterpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from celery.schedules import ParseException, crontab_parser
from django_celery_beat.tzcrontab import TzAwareCrontab

# name, what it may hold, its parser, and where django-celery-beat's column ends
_FIELDS = (
    ("minute", "0 to 59", crontab_parser(60), 240),
    ("hour", "0 to 23", crontab_parser(24), 96),
    ("day of month", "1 to 31", crontab_parser(31, 1), 124),
    ("month", "1 to 12", crontab_parser(12, 1), 64),
    ("day of week", "0 to 7 or sun to sat", crontab_parser(7), 64),
)
_UNREADABLE = (ParseException, ValueError, KeyError, IndexError, ZeroDivisionError)


class CronInvalid(ValueError):
    """The text names no schedule; the message says why."""


@dataclass(frozen=True, slots=True)
class Cron:
    """The five fields as beat reads them: Sunday is 0."""

    minute: str
    hour: str
    day_of_month: str
    month_of_year: str
    day_of_week: str

    def next_after(self, moment: datetime, *, zone: tzinfo) -> datetime:
        """The first time after `moment` that the schedule names, by the clocks of `zone`."""
        local = moment.astimezone(zone)
        schedule = TzAwareCrontab(
            minute=self.minute,
            hour=self.hour,
            day_of_month=self.day_of_month,
            month_of_year=self.month_of_year,
            day_of_week=self.day_of_week,
            tz=zone,
        )
        schedule.nowfun = lambda: local
        wait: timedelta = schedule.remaining_estimate(local)
        return moment.astimezone(UTC) + wait


def parse_cron(text: str) -> Cron:
    """Raises CronInvalid."""
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise CronInvalid(
            f"must have five fields ({names}), such as 0 3 * * * (every day at three); "
            f"there are {len(parts)}."
        )
    parts[4] = ",".join(map(_sunday_is_zero, parts[4].split(",")))
    for part, (name, allowed, parser, longest) in zip(parts, _FIELDS, strict=True):
        try:
            is_known = part.isascii() and bool(parser.parse(part))
        except _UNREADABLE:
            is_known = False
        if not is_known:
            raise CronInvalid(
                f"{part[:40]!r} is not understood as {name}: {allowed}, *, ranges, lists, steps."
            )
        if len(part) > longest:
            raise CronInvalid(f"the {name} is longer than {longest} characters.")
    cron = Cron(*parts)
    if not cron.day_of_month.startswith("*") and not cron.day_of_week.startswith("*"):
        raise CronInvalid(
            "names a day of the month and a day of the week; cron means either of them, which is "
            "not supported: use * for one."
        )
    try:
        cron.next_after(datetime(2024, 1, 1, tzinfo=UTC), zone=UTC)
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise CronInvalid("names no day that exists.") from error
    return cron


def _sunday_is_zero(part: str) -> str:
    """Both 0 and 7 are Sunday."""
    if part == "7":
        return "0"
    first, dash, last = part.partition("-")
    return f"{first}-6,0" if dash and last == "7" else part

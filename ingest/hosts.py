"""What the database keeps of a host's budget, so that it is not exceeded when Redis forgets.

Redis counts (`ingest.fetch.budget`). Here stand: until when a host may be in use, noted before it
is; and how many sends of a period's quota were handed to Redis, in blocks, before they are sent.
A Redis that loses its data costs at most the rest of a block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from ingest.configuration import LimitsPart, origin_of
from ingest.fetch.budget import forget_member
from ingest.models import Bucket, HostUse, QuotaUse, Run, Source
from ingest.outcomes import FINAL_STATES

# A hundredth of a quota at a time: what may be lost with Redis.
QUOTA_BLOCKS, MAX_QUOTA_BLOCK = 100, 1_000

Period = tuple[str, float, float]


def name_origin(origin: tuple[str, str, int]) -> str:
    return "{}://{}:{}".format(*origin)


def name_member(run_id: int) -> str:
    return f"run-{run_id}"


def find_periods(now: float) -> dict[str, Period]:
    """The calendar periods (UTC) that `now` lies in, by name: (id, begin, end)."""
    moment = datetime.fromtimestamp(now, tz=UTC)
    hour = moment.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    month = day.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    spans = {
        "hour": (hour, hour + timedelta(hours=1), "%Y-%m-%dT%H"),
        "day": (day, day + timedelta(days=1), "%Y-%m-%d"),
        "month": (month, next_month, "%Y-%m"),
    }
    return {
        per: (f"{begin:{name}}", begin.timestamp(), end.timestamp())
        for per, (begin, end, name) in spans.items()
    }


def touch_host(origin: str, until: float) -> tuple[float, dict[str, LimitsPart]]:
    """Notes that the host may be in use until then (epoch seconds).

    Gives what was noted before (0.0: nothing), and the limits of all active runs there, waiting
    ones too, by the names of their members.
    """
    moment = datetime.fromtimestamp(until, tz=UTC)
    with transaction.atomic():
        use, is_new = HostUse.objects.select_for_update().get_or_create(
            origin=origin, defaults={"used_until": moment}
        )
        used_until = 0.0 if is_new else use.used_until.timestamp()
        if until > used_until:
            HostUse.objects.filter(pk=use.pk).update(used_until=moment)
    runs = Run.objects.exclude(state__in=FINAL_STATES).values_list(
        "pk", "configuration__source__request__url", "configuration__source__limits"
    )
    return used_until, {
        name_member(pk): LimitsPart.model_validate(limits)
        for pk, url, limits in runs
        if name_origin(origin_of(url)) == origin
    }


def allot_sends(origin: str, per: str, limit: int) -> int:
    """Hands out some sends of the present period; 0 once `limit` of them were handed out.

    Sends count for the host, whatever run they are for: also what the roll-ups know of runs without
    a quota, or of before it was set.
    """
    name, began_at, _ = find_periods(timezone.now().timestamp())[per]
    known = _count_sends(origin, began_at)
    with transaction.atomic():
        use, _ = QuotaUse.objects.select_for_update().get_or_create(
            origin=origin, period=name, defaults={"granted": known}
        )
        use.granted = max(use.granted, known)
        block = max(1, min(MAX_QUOTA_BLOCK, limit // QUOTA_BLOCKS))
        sends = min(block, limit - use.granted)
        if sends <= 0:
            return 0
        use.granted += sends
        use.save(update_fields=["granted"])
    return sends


def forget_unused() -> None:
    """Deletes what no limit reaches back to any more: the longest is 31 days. Twice that, so that
    a clock that is set wrong costs nothing."""
    before = timezone.now() - timedelta(days=62)
    HostUse.objects.filter(used_until__lt=before).delete()
    # Names of periods are in the order of time, and the month of that day is over, too.
    QuotaUse.objects.filter(period__lt=f"{before:%Y-%m-%d}").delete()


def leave_host(run_id: int) -> None:
    """Where the run is over, its limits bind the others at its host no more."""
    over = Run.objects.filter(pk=run_id, state__in=FINAL_STATES)
    for url in over.values_list("configuration__source__request__url", flat=True):
        forget_member(
            redis_url=settings.REDIS_BUDGET_URL,
            origin=name_origin(origin_of(url)),
            member=name_member(run_id),
        )


def _count_sends(origin: str, since: float) -> int:
    urls = Source.objects.values_list("pk", "configuration__request__url")
    sources = [pk for pk, url in urls if name_origin(origin_of(url)) == origin]
    buckets = Bucket.objects.filter(
        source__in=sources, started_at__gte=datetime.fromtimestamp(since, tz=UTC)
    )
    return buckets.aggregate(sends=Sum("sends"))["sends"] or 0


class HostBook:
    """`ingest.fetch.budget.Book` of one host; `call` runs a function in the database's thread."""

    def __init__(self, origin: str, call: Callable[..., Awaitable[Any]]) -> None:
        self._origin = origin
        self._call = call

    async def touch(self, until: float) -> tuple[float, dict[str, LimitsPart]]:
        touched: tuple[float, dict[str, LimitsPart]] = await self._call(
            touch_host, self._origin, until
        )
        return touched

    async def allot(self, per: str, limit: int) -> int:
        sends: int = await self._call(allot_sends, self._origin, per, limit)
        return sends

    def periods(self, now: float) -> dict[str, Period]:
        return find_periods(now)

"""How often a caller may ask: a counter per caller and window in Redis.

DRF's own throttles keep a list of times per caller, which at 1,000 requests a second is read and
written whole at each of them. A counter is one small round trip. Without Redis nobody is refused.
"""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class CallerThrottle(BaseThrottle):
    """Limits by user, or by address for the anonymous.

    A view with `throttle_scope = "search"` has that rate of its own for those who are signed in.
    """

    _wait_seconds: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        request.is_counted = True  # type: ignore[attr-defined]
        scope, caller = self._identify(request, view)
        self._wait_seconds = _count(scope, caller, settings.THROTTLE_RATES[scope])
        return self._wait_seconds is None

    def wait(self) -> float | None:
        return self._wait_seconds

    def _identify(self, request: Request, view: Any) -> tuple[str, str]:
        if request.user and request.user.is_authenticated:
            return getattr(view, "throttle_scope", None) or "user", str(request.user.pk)
        return "anonymous", self.get_ident(request)


def wait_after_refusal(request: Request) -> float | None:
    """Counts a request that was refused because nobody knows who sent it.

    DRF throttles after that, so that guessing tokens would be free. Gives the seconds to wait when
    the address has used up its rate; None while it may go on, or was counted already.
    """
    if getattr(request, "is_counted", False):
        return None
    address = CallerThrottle().get_ident(request)
    return _count("anonymous", address, settings.THROTTLE_RATES["anonymous"])


def is_flood(request: HttpRequest) -> bool:
    """Counts an error of somebody unknown; True when their address made twice its rate of them."""
    address = CallerThrottle().get_ident(request)  # type: ignore[arg-type]
    rate = settings.THROTTLE_RATES["anonymous"]
    return _count("errors", address, rate, times=2) is not None


def _count(scope: str, caller: str, rate: str, *, times: int = 1) -> float | None:
    """Seconds until the next window when this one is used up `times` times, else None."""
    limit, period = _parse_rate(rate)
    now = time.time()
    key = f"throttle:{scope}:{caller}:{int(now // period)}"
    count = cache.count_up(key, expires_seconds=period + 1)  # type: ignore[attr-defined]
    return None if count <= limit * times else period - now % period


def _parse_rate(rate: str) -> tuple[int, int]:
    number, _, period = rate.partition("/")
    return int(number), _PERIODS[period]

"""How often a caller may ask: a counter per caller and window in Redis.

DRF's own throttles keep a list of times per caller, which at 1,000 requests a second is read and
written whole at each of them. A counter is one small round trip. Without Redis nobody is refused.
"""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.core.cache import cache
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class CallerThrottle(BaseThrottle):
    """Limits by user, or by address for the anonymous.

    A view with `throttle_scope = "search"` has that rate of its own for those who are signed in.
    """

    _wait_seconds: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        scope, caller = self._identify(request, view)
        limit, period = _parse_rate(settings.THROTTLE_RATES[scope])
        now = time.time()
        key = f"throttle:{scope}:{caller}:{int(now // period)}"
        if cache.count_up(key, expires_seconds=period + 1) <= limit:  # type: ignore[attr-defined]
            return True
        self._wait_seconds = period - now % period
        return False

    def wait(self) -> float | None:
        return self._wait_seconds

    def _identify(self, request: Request, view: Any) -> tuple[str, str]:
        if request.user and request.user.is_authenticated:
            return getattr(view, "throttle_scope", None) or "user", str(request.user.pk)
        return "anonymous", self.get_ident(request)


def _parse_rate(rate: str) -> tuple[int, int]:
    number, _, period = rate.partition("/")
    return int(number), _PERIODS[period]

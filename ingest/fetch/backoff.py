"""How long to wait before a request is sent again."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# On other answers Retry-After means something else (RFC 9110 §10.2.3: 3xx) or nothing.
DELAYING_STATUS = frozenset({429, 503})
_DELTA_SECONDS = re.compile(r"^[0-9]+$")
# Any number of digits is a valid delay; one beyond this is as good as never.
LONGEST_SECONDS = 1e12


def read_retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, in both forms of RFC 9110 §10.2.3.

    None where it is absent, cannot be read, is negative or lies in the past.
    """
    if value is None:
        return None
    text = value.strip()
    if _DELTA_SECONDS.match(text):
        return min(float(text), LONGEST_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - now).total_seconds()
    return seconds if seconds > 0 else None


def jittered_wait(
    attempt: int, *, base_seconds: float, cap_seconds: float, random_source: random.Random
) -> float:
    """Full-jitter exponential backoff after the `attempt`-th send (1-based).

    Uniform in (0, min(cap, base · 2^(attempt-1))]: the scheme of the AWS architecture blog
    "Exponential Backoff And Jitter".
    """
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 60))
    return ceiling * (1.0 - random_source.random())

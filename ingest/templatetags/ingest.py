"""How numbers, times and states are written in pages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django import template
from django.utils import formats
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ingest.models import JobState
from ingest.outcomes import Outcome, RunState

register = template.Library()

# Jobs borrow the colours of the run states that they resemble.
_LIKE_RUN_STATE = {
    JobState.QUEUED: RunState.PLANNED,
    JobState.RUNNING: RunState.FETCHING,
    JobState.FINISHED: RunState.COMPLETE,
    JobState.FAILED: RunState.CRASHED,
}


@register.filter
def number(value: Any) -> str:
    """1234567 as the reader's language groups it; nothing becomes a dash."""
    if value is None or value == "":
        return "–"
    decimals = 1 if isinstance(value, float) else None
    return formats.number_format(value, decimal_pos=decimals, use_l10n=True, force_grouping=True)


@register.filter
def moment(value: datetime | None) -> str | SafeString:
    """A time to the second in UTC, readable by machines too."""
    if value is None:
        return "–"
    utc = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}">{}\u00a0UTC</time>',
        utc.isoformat(),
        utc.strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0"),
    )


@register.filter
def duration(value: timedelta | None) -> str:
    if value is None:
        return "–"
    seconds = value.total_seconds()
    if seconds < 60:
        return _("%s s") % number(float(seconds))
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@register.filter
def run_state_of_job(state: str) -> str:
    return _LIKE_RUN_STATE[JobState(state)].value


@register.filter
def state_label(state: str) -> str:
    """A run's state in the reader's language."""
    return str(RunState(state).label) if state in RunState.values else state


@register.filter
def outcome_label(outcome: str) -> str:
    return str(Outcome(outcome).label) if outcome in Outcome.values else outcome


@register.filter
def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

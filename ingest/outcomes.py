"""The vocabulary of the ledger: what can become of a request, and of a run.

Used by the fetcher, the ledger, the error log, the search filters, the charts and the API; programs
outside rely on the values.
"""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Outcome(TextChoices):
    """Where a planned request stands. A finished run has no `planned` row."""

    PLANNED = "planned", _("planned")
    DELIVERED = "delivered", _("delivered")
    EMPTY = "empty", _("empty")
    MALFORMED = "malformed", _("malformed")
    MISSING = "missing", _("missing")
    DENIED = "denied", _("denied")
    REFUSED = "refused", _("refused")
    BLOCKED = "blocked", _("blocked")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class RunState(TextChoices):
    """`planned → fetching ⇄ waiting → sweeping → reconciling →` one of the five final states."""

    PLANNED = "planned", _("planned")
    FETCHING = "fetching", _("fetching")
    WAITING = "waiting", _("waiting")
    SWEEPING = "sweeping", _("sweeping")
    RECONCILING = "reconciling", _("reconciling")
    COMPLETE = "complete", _("complete")
    INCOMPLETE = "incomplete", _("incomplete")
    BLOCKED = "blocked", _("blocked")
    CANCELLED = "cancelled", _("cancelled")
    CRASHED = "crashed", _("crashed")


FINAL_STATES = frozenset(
    {
        RunState.COMPLETE,
        RunState.INCOMPLETE,
        RunState.BLOCKED,
        RunState.CANCELLED,
        RunState.CRASHED,
    }
)
ACTIVE_STATES = frozenset(RunState) - FINAL_STATES

# What a sweep sends again by itself, and what only a person may ask for.
SWEPT_OUTCOMES = frozenset({Outcome.EMPTY, Outcome.MALFORMED, Outcome.REFUSED, Outcome.FAILED})
SWEPT_BY_HAND = SWEPT_OUTCOMES | {
    Outcome.MISSING,
    Outcome.DENIED,
    Outcome.BLOCKED,
    Outcome.CANCELLED,
}

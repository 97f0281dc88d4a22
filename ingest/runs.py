"""The life of a run: start, advance from state to state, sweep, cancel, finish.

`advance_run` is the one place that decides what comes next. It may be called by anybody at any time
and any number of times; what it does depends on the ledger alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count
from django.utils import timezone
from django.utils.translation import gettext as _

from ingest import ledger
from ingest.configuration import WITHOUT_SECRETS, SourceConfiguration, parse_configuration
from ingest.errors import LeaseLost, NothingToSweep, RunActive, RunNotActive, SourceArchived
from ingest.models import Delivery, Job, JobState, Record, Request, Run, RunEvent, Slice, Source
from ingest.outcomes import FINAL_STATES, SWEPT_BY_HAND, SWEPT_OUTCOMES, Outcome, RunState
from ingest.secrets import MARK, REDACTED, attach_secrets, unseal

MAX_FAILURES_IN_A_ROW = 3
# How long a slice that lives may still write what came in before the deadline.
DEADLINE_GRACE_SECONDS = 5
# How long the rate that a source bears is remembered after its last run.
RATE_KEPT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a run needs: `is_due` = a slice now; `wake_at` = a slice then; neither = nothing."""

    is_due: bool = False
    wake_at: datetime | None = None


def configuration_of(run: Run) -> SourceConfiguration:
    """The configuration that the run was started under, with the source's present secrets."""
    secrets = unseal(run.source.sealed_secrets)
    return parse_configuration(attach_secrets(run.configuration["source"], secrets))


def public_configuration_of(run: Run) -> SourceConfiguration:
    """The same without any secret: enough to name addresses."""
    data = dict(run.configuration["source"])
    request = dict(data["request"], api_key=None, proxies=[])
    for part in ("headers", "params"):
        request[part] = {
            name: REDACTED if value == MARK else value for name, value in request[part].items()
        }
    return parse_configuration({**data, "request": request}, context=WITHOUT_SECRETS)


def create_run(source: Source, *, user: Any) -> Run:
    """Plans a run: the whole ledger is there before the first request leaves.

    Raises RunActive or SourceArchived.
    """
    try:
        with transaction.atomic():
            # Archiving looks for active runs under the same lock.
            source = Source.objects.select_for_update(no_key=True).get(pk=source.pk)
            if source.archived_at:
                raise SourceArchived(_("The source is archived."))
            configuration = parse_configuration(
                attach_secrets(source.configuration, unseal(source.sealed_secrets))
            )
            last = Run.objects.filter(source=source).first()
            run = Run.objects.create(
                source=source,
                started_by=user,
                configuration={"version": 1, "source": source.configuration},
                planned_total=configuration.plan.count(),
                signs=_remember_rate(last) if last else {},
            )
            ledger.plan_rows(run, configuration)
            Job.objects.create(kind="run", user=user, run=run, total=run.planned_total)
            add_event(
                run, message=_("%(count)d requests are planned.") % {"count": run.planned_total}
            )
    except IntegrityError as error:
        active = Run.objects.filter(source=source).exclude(state__in=FINAL_STATES).first()
        if active is None:
            raise
        raise RunActive(active.pk) from error
    return run


def _remember_rate(run: Run) -> dict[str, Any]:
    """Signs with the rate that the source's last run has learned, while that is fresh."""
    rate = run.signs.get("rate")
    if rate is None or run.finished_at is None:
        return {}
    age_seconds = (timezone.now() - run.finished_at).total_seconds()
    return {"rate": rate} if age_seconds < RATE_KEPT_SECONDS else {}


def _lock(run_id: int) -> Run:
    """The run, after `ledger.lock_run`, as it is now."""
    ledger.lock_run(run_id)
    return Run.objects.select_related("source").get(pk=run_id)


def note_first_send(run_id: int) -> Run:
    """Starts the run's clock, once. Raises LeaseLost where the run was ended meanwhile."""
    now = timezone.now()
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            raise LeaseLost
        if run.started_at is None:
            seconds = public_configuration_of(run).limits.deadline_seconds
            run.started_at, run.deadline_at = now, now + timedelta(seconds=seconds)
            run.state = RunState.FETCHING
            run.save(update_fields=["started_at", "deadline_at", "state"])
            Job.objects.filter(run=run).update(state=JobState.RUNNING, started_at=now)
            add_event(run, message=_("The first request is sent."))
        return run


def count_by_outcome(run: Run) -> dict[str, int]:
    """All ten outcomes of the run's ledger, as it is at this moment."""
    counts = dict.fromkeys(Outcome.values, 0)
    counts |= dict(
        Request.objects.filter(run=run)
        .order_by()
        .values_list("outcome")
        .annotate(count=Count("pk"))
    )
    return counts


def add_event(run: Run, *, message: str = "") -> RunEvent:
    """The next numbered event of the run, and its job's progress. Inside a transaction."""
    outcomes = count_by_outcome(run)
    done = sum(outcomes.values()) - outcomes[Outcome.PLANNED]
    locked = _lock(run.pk)
    run.event_seq = locked.event_seq = locked.event_seq + 1
    locked.save(update_fields=["event_seq"])
    Job.objects.filter(run=run).update(done=done)
    return RunEvent.objects.create(
        run=run,
        seq=locked.event_seq,
        state=locked.state,
        planned=locked.planned_total,
        done=done,
        outcomes=outcomes,
        message=message,
    )


def report_progress(run: Run) -> None:
    """An event with the present counts; none after the one that ends the run."""
    with transaction.atomic():
        if not _lock(run.pk).is_finished:
            add_event(run)


def advance_run(run_id: int) -> NextStep:
    """Moves a run on as far as its ledger allows, and says when it wants a slice again."""
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            return NextStep()
        ledger.release_expired(run_id)
        is_worked_on = Slice.objects.filter(run_id=run_id).exists()
        if run.deadline_at and timezone.now() >= run.deadline_at:
            grace = timedelta(seconds=DEADLINE_GRACE_SECONDS)
            if is_worked_on and timezone.now() < run.deadline_at + grace:
                return NextStep()
            return _end_at_deadline(run)
        step = _next_step(run, is_worked_on=is_worked_on)
        if step.is_due or step.wake_at or is_worked_on:
            return step
        return _end_pass(run)


def _end_at_deadline(run: Run) -> NextStep:
    if run.signs.get("down_since"):
        ledger.settle_unsent(run, outcome=Outcome.FAILED, error="host_down", reason="host down")
    else:
        reason = _("The run's deadline came before this request was sent.")
        ledger.settle_unsent(run, outcome=Outcome.CANCELLED, error="deadline", reason=reason)
    return _finish(run, why_ended="deadline")


def _next_step(run: Run, *, is_worked_on: bool) -> NextStep:
    next_due = ledger.next_due_at(run.pk)
    if next_due is None:
        return NextStep()
    # A host that is down is probed later, one that asked for a pause is left alone.
    quiet_until = max(run.signs.get("probe_after", 0.0), run.signs.get("held_until", 0.0))
    if quiet_until:
        next_due = max(next_due, datetime.fromtimestamp(quiet_until, tz=next_due.tzinfo))
    is_due = next_due <= timezone.now() + timedelta(seconds=1)
    if run.started_at and not run.sweeps_done and not is_worked_on:
        _set_state(run, RunState.FETCHING if is_due else RunState.WAITING)
    return NextStep(is_due=is_due, wake_at=None if is_due else next_due)


def _set_state(run: Run, state: RunState, *, message: str = "") -> None:
    if run.state != state:
        run.state = state
        run.save(update_fields=["state"])
        add_event(run, message=message)


def _end_pass(run: Run) -> NextStep:
    """No row is due or held: sweep the leftovers, or finish."""
    retry = public_configuration_of(run).retry
    accepted = {Outcome(value) for value in retry.accept}
    if run.sweeps_done < retry.sweeps:
        outcomes = SWEPT_OUTCOMES | ({Outcome.MISSING} if retry.missing else frozenset())
        outcomes = frozenset(outcomes - accepted)
        if count := ledger.open_pass(run, outcomes=outcomes, until=run.deadline_at):
            run.sweeps_done += 1
            run.save(update_fields=["sweeps_done"])
            _set_state(
                run,
                RunState.SWEEPING,
                message=_("%(count)d requests are sent once more.") % {"count": count},
            )
            return NextStep(is_due=True)
    return _finish(run, why_ended="plan")


def _finish(run: Run, *, why_ended: str, state: RunState | None = None) -> NextStep:
    """The finishing transaction: books closed by GROUP BY over the ledger."""
    _set_state(run, RunState.RECONCILING)
    Slice.objects.filter(run=run).delete()
    counts = count_by_outcome(run)
    for outcome, count in counts.items():
        setattr(run, f"{outcome}_count", count)
    run.state = state or (RunState.COMPLETE if _is_complete(run, counts) else RunState.INCOMPLETE)
    run.why_ended = why_ended
    run.finished_at = timezone.now()
    run.save(
        update_fields=["state", "why_ended", "finished_at", *(f"{name}_count" for name in counts)]
    )
    Job.objects.filter(run=run).update(
        state=JobState.FAILED if run.state == RunState.CRASHED else JobState.FINISHED,
        finished_at=run.finished_at,
    )
    add_event(run, message=_final_message(run))
    return NextStep()


def _is_complete(run: Run, counts: dict[str, int]) -> bool:
    accepted = {Outcome.DELIVERED, *public_configuration_of(run).accepted}
    left = Request.objects.filter(run=run).exclude(outcome__in=accepted).exclude(role="terminal")
    if counts[Outcome.PLANNED] or left.exists():
        return False
    if run.upstream_total is not None and run.upstream_total != count_distinct_keys(run):
        return False
    return count_stored(run) == count_distinct_keys(run)


def count_distinct_keys(run: Run) -> int:
    return Delivery.objects.filter(run=run).values("record_key").distinct().count()


def count_stored(run: Run) -> int:
    """Distinct delivered keys of the run that have a record."""
    return (
        Record.objects.filter(
            source_id=run.source_id, key__in=Delivery.objects.filter(run=run).values("record_key")
        )
        .order_by()
        .count()
    )


def _final_message(run: Run) -> str:
    if run.state == RunState.COMPLETE:
        return _("Complete: nothing was left out.")
    if run.state == RunState.INCOMPLETE:
        missing = run.planned_total - run.delivered_count
        return _("Incomplete: %(count)d requests brought no good answer.") % {"count": missing}
    return str(RunState(run.state).label)


def block_run(run_id: int, *, reason: str) -> None:
    """The source is shut to us: nothing more is sent."""
    _stop(run_id, Outcome.BLOCKED, "blocked", reason, state=RunState.BLOCKED, why_ended="blocked")


def give_up_host(run_id: int) -> None:
    """The host never answered: what was not sent is `failed`, not `cancelled`."""
    _stop(run_id, Outcome.FAILED, "host_down", "host down", state=None, why_ended="host down")


def crash_run(run_id: int, *, reason: str) -> None:
    _stop(run_id, Outcome.CANCELLED, "crashed", reason, state=RunState.CRASHED, why_ended="crashed")


def cancel_run(run_id: int, *, by: str) -> Run:
    """Stops an active run at once; what is under way is not written. Raises RunNotActive."""
    reason = _("Cancelled by %(who)s.") % {"who": by}
    if not _stop(
        run_id, Outcome.CANCELLED, "cancelled", reason, state=RunState.CANCELLED,
        why_ended="cancelled",
    ):  # fmt: skip
        raise RunNotActive(_("The run is finished already."))
    return Run.objects.get(pk=run_id)


def _stop(
    run_id: int,
    outcome: Outcome,
    error: str,
    reason: str,
    *,
    state: RunState | None,
    why_ended: str,
) -> bool:
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            return False
        ledger.settle_unsent(run, outcome=outcome, error=error, reason=reason)
        _finish(run, why_ended=why_ended, state=state)
        return True


def reopen_for_sweep(run_id: int) -> Run:
    """Fetch what is missing: a finished run becomes active again for one send of each gap.

    A person asks for it, so that delays which the upstream named earlier are not waited out.
    Raises RunActive or NothingToSweep.
    """
    with transaction.atomic():
        # Starting a run takes the same lock: a source has one active run.
        source_id = Run.objects.values_list("source", flat=True).get(pk=run_id)
        list(Source.objects.select_for_update(no_key=True).filter(pk=source_id).values_list("pk"))
        run = _lock(run_id)
        if not run.is_finished:
            raise RunActive(run.pk)
        active = Run.objects.filter(source=run.source).exclude(state__in=FINAL_STATES).first()
        if active:
            raise RunActive(active.pk)
        configuration = public_configuration_of(run)
        count = ledger.open_pass(run, outcomes=frozenset(SWEPT_BY_HAND - configuration.accepted))
        if not count:
            raise NothingToSweep(_("Nothing is missing in this run."))
        now = timezone.now()
        run.started_at = run.started_at or now
        run.deadline_at = now + timedelta(seconds=configuration.limits.deadline_seconds)
        run.sweeps_done = max(run.sweeps_done, configuration.retry.sweeps, 1)
        run.failures_in_a_row = 0
        run.signs = _remember_rate(run) | {"has_answer": run.signs.get("has_answer", False)}
        run.finished_at = None
        run.state = RunState.SWEEPING
        run.save(
            update_fields=[
                "state",
                "finished_at",
                "started_at",
                "deadline_at",
                "sweeps_done",
                "failures_in_a_row",
                "signs",
            ]
        )
        Job.objects.filter(run=run).update(state=JobState.RUNNING, finished_at=None)
        add_event(
            run, message=_("%(count)d requests are sent once more, by hand.") % {"count": count}
        )
        return run

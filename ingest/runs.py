"""The life of a run: start, advance from state to state, sweep, cancel, finish.

`advance_run` is the one place that decides what comes next. It may be called by anybody at any time
and any number of times; what it does depends on the ledger alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext as _

from ingest import hosts, ledger
from ingest.configuration import (
    STORED,
    WITHOUT_SECRETS,
    SourceConfiguration,
    origin_of,
    parse_configuration,
)
from ingest.errors import (
    ConfigurationInvalid,
    LeaseLost,
    NothingToSweep,
    RunActive,
    RunNotActive,
    SourceArchived,
    SourceChanged,
)
from ingest.fetch.budget import Parked
from ingest.fetch.signs import Signs
from ingest.models import (
    Delivery,
    EventKind,
    Job,
    JobState,
    LimitKind,
    Record,
    Request,
    Run,
    RunEvent,
    Slice,
    Source,
)
from ingest.outcomes import FINAL_STATES, SWEPT_BY_HAND, SWEPT_OUTCOMES, Outcome, RunState
from ingest.secrets import (
    MARK,
    REDACTED,
    attach_secrets,
    has_secrets,
    replace_credentials,
    unseal,
)

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3
# How long a slice that lives may still write what came in before the deadline.
DEADLINE_GRACE_SECONDS = 5
# A run that is due for longer than this waits for a worker; others begin their next slice sooner.
WAITING_SECONDS = 2.0
# How long the rate that a source bears is remembered after its last run.
RATE_KEPT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a run needs: `is_due` = a slice now; `wake_at` = a slice then; neither = nothing."""

    is_due: bool = False
    wake_at: datetime | None = None


def configuration_of(run: Run) -> SourceConfiguration:
    """The configuration that the run was started under, with the source's present secrets.

    Keys and proxies may have become more or fewer since. Raises SourceChanged where they belong to
    another host now, and ConfigurationInvalid where they do not fit the rest any more.
    """
    source = run.source
    public = replace_credentials(run.configuration["source"], source.configuration)
    if has_secrets(public):
        # A secret is never sent to another host than the one that it was given for.
        hosts = {origin_of(data["request"]["url"]) for data in (public, source.configuration)}
        if len(hosts) > 1:
            raise SourceChanged(
                _("The source has another address now, and its secrets belong to that one.")
            )
    return _complete(public, source)


def _complete(public: Mapping[str, Any], source: Source) -> SourceConfiguration:
    whole = attach_secrets(public, unseal(source.sealed_secrets))
    return parse_configuration(whole, context=STORED)


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
            configuration = _complete(source.configuration, source)
            run = Run.objects.create(
                source=source,
                started_by=user,
                configuration={"version": 1, "source": source.configuration},
                planned_total=configuration.plan.count(),
                signs=_remember_rate(source.pk),
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


def _remember_rate(source_id: int) -> dict[str, Any]:
    """Signs with the rate that the source's run which ended last has learned, while it is fresh."""
    oldest = timezone.now() - timedelta(seconds=RATE_KEPT_SECONDS)
    ended = Run.objects.filter(source_id=source_id, finished_at__gt=oldest)
    signs = ended.order_by("-finished_at").values_list("signs", flat=True).first() or {}
    if signs.get("rate") is None:
        return {}
    return {name: signs[name] for name in ("rate", "rate_at") if name in signs}


def _lock(run_id: int) -> Run:
    """The run, after `ledger.lock_run`, as it is now."""
    ledger.lock_run(run_id)
    # A plan of many values makes the configurations large; they are read where they are needed.
    runs = Run.objects.select_related("source").defer("configuration", "source__configuration")
    return runs.get(pk=run_id)


def note_first_send(run_id: int) -> Run:
    """Starts the run's clock, once. Raises LeaseLost where the run was ended meanwhile."""
    now = timezone.now()
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            raise LeaseLost
        if run.started_at is None:
            seconds = public_configuration_of(run).limits.deadline_seconds
            run.started_at = run.resumed_at = now
            run.deadline_at = now + timedelta(seconds=seconds)
            run.state = RunState.FETCHING
            run.save(update_fields=["started_at", "resumed_at", "deadline_at", "state"])
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


def add_alert(run: Run, message: str, *, details: dict[str, Any] | None = None) -> RunEvent:
    """An event that wants somebody to act. Inside a transaction."""
    logger.warning("Run %d of %s: %s", run.pk, run.source.slug, message)
    return add_event(run, message=message, kind=EventKind.ALERT, details=details)


def add_event(
    run: Run,
    *,
    message: str = "",
    kind: EventKind | None = None,
    details: dict[str, Any] | None = None,
) -> RunEvent:
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
        kind=kind or (EventKind.STEP if message else EventKind.PROGRESS),
        message=message,
        details=details,
    )


def note_rest(run: Run, *, label: str, reason: str) -> None:
    """An event: a proxy or key was set aside (with a reason), or works again. In a transaction."""
    told = {"label": label, "reason": reason}
    set_aside = _("%(label)s is set aside for a while: %(reason)s.") % told
    add_event(run, message=set_aside if reason else _("%(label)s works again.") % told)


def note_step(run_id: int, message: str) -> None:
    """Something that people who watch an active run should know."""
    with transaction.atomic():
        run = _lock(run_id)
        if not run.is_finished:
            add_event(run, message=message)


def note_waiting(run_id: int, *, reason: str) -> None:
    """An alert that the run cannot go on by itself; the same one is not repeated."""
    with transaction.atomic():
        run = _lock(run_id)
        last = run.events.exclude(message="").values_list("message", flat=True).last()
        if not run.is_finished and last != reason:
            add_alert(run, reason)


def park_run(run_id: int, parked: Parked) -> None:
    """Nothing may be sent before a moment that is too far away for a worker to wait for it.

    The deadline stands still while the run waits for a quota's next period.
    """
    wake_at = datetime.fromtimestamp(parked.until, tz=UTC)
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            return
        now = timezone.now()
        # Another slice may have parked it before: the same wait counts once.
        waiting_since = max(now, run.wake_at or now) if run.waits_for == LimitKind.QUOTA else now
        is_news = run.wake_at != wake_at
        if parked.quota and run.deadline_at and wake_at > waiting_since:
            run.deadline_at += wake_at - waiting_since
        run.wake_at, run.waits_for = wake_at, parked.reason
        run.save(update_fields=["wake_at", "waits_for", "deadline_at"])
        if parked.quota and is_news:
            limit, per = parked.quota
            told = {"count": limit, "per": per, "when": f"{wake_at:%Y-%m-%d %H:%M}"}
            add_event(
                run,
                message=_(
                    "The quota of %(count)d requests per %(per)s is used up; "
                    "the rest waits until %(when)s UTC."
                )
                % told,
            )


def advance_run(run_id: int) -> NextStep:
    """Moves a run on as far as its ledger allows, and says when it wants a slice again."""
    with transaction.atomic():
        run = _lock(run_id)
        if run.is_finished:
            return NextStep()
        ledger.release_expired(run_id)
        is_worked_on = Slice.objects.filter(run_id=run_id).exists()
        signs = Signs.of(run.signs)
        if signs.block_reason or _is_given_up(run, signs):
            # The slices hear of it with their next report; the last one brings what was under way.
            return NextStep() if is_worked_on else _end_where_shut(run, signs)
        if run.deadline_at and timezone.now() >= run.deadline_at:
            grace = timedelta(seconds=DEADLINE_GRACE_SECONDS)
            if is_worked_on and timezone.now() < run.deadline_at + grace:
                return NextStep()
            return _end_at_deadline(run)
        step = _next_step(run, is_worked_on=is_worked_on)
        if step.is_due or step.wake_at or is_worked_on:
            return step
        return _end_pass(run)


def _is_given_up(run: Run, signs: Signs) -> bool:
    return signs.is_host_down and signs.is_given_up(public_configuration_of(run))


def _end_where_shut(run: Run, signs: Signs) -> NextStep:
    """Nothing more is sent: the source is shut to us, or its host never answered."""
    if not signs.block_reason:
        error, reason = _why_dead(signs)
        add_alert(
            run, _("The host never answered; the run is given up."), details={"reason": reason}
        )
        # What was not sent is `failed`, not `cancelled`.
        ledger.settle_unsent(run, outcome=Outcome.FAILED, error=error, reason=reason)
        return _finish(run, why_ended="host down")
    evidence = {name: value for name, value in signs.block_evidence.items() if name != "at"}
    add_alert(
        run,
        _("The source is shut to us: %(reason)s.") % {"reason": signs.block_reason},
        details=evidence,
    )
    shown = f"{signs.block_reason} (request {evidence.get('key')}: {evidence.get('reason')})"
    ledger.settle_unsent(run, outcome=Outcome.BLOCKED, error="blocked", reason=shown)
    return _finish(run, why_ended="blocked", state=RunState.BLOCKED)


def _why_dead(signs: Signs) -> tuple[str, str]:
    """(error, reason) of the rows that stay unsent; it need not be the host's fault."""
    if signs.dead_error in {"refused_address", "proxy"}:
        return signs.dead_error, signs.dead_reason
    return "host_down", "host down"


def open_slice(run_id: int, *, worker: str) -> Slice | None:
    """A lease for a worker; None where the run is over, or enough are at it.

    A host that is down gets one probe at a time: from one slice.
    """
    with transaction.atomic():
        run = _lock(run_id)
        return ledger.open_slice(run_id, worker=worker, at_most=_most_slices(run))


def wants_worker(run_id: int) -> bool:
    """Whether a further worker may join the run; its first before anybody's second."""
    at_work = count_workers(run_id)
    if not at_work:
        return True
    run = Run.objects.only("signs").get(pk=run_id)
    return at_work < _most_slices(run) and not is_anybody_waiting(but=run_id)


def count_workers(run_id: int) -> int:
    """How many slices are at the run right now."""
    return Slice.objects.filter(run_id=run_id, expires_at__gte=timezone.now()).count()


def _most_slices(run: Run) -> int:
    return 1 if Signs.of(run.signs).is_host_down else settings.RUN_SLICES


def is_anybody_waiting(*, but: int) -> bool:
    """Whether another run has had due rows for a while and no worker: all are busy."""
    since = timezone.now() - timedelta(seconds=WAITING_SECONDS)
    waiting = Request.objects.filter(run=OuterRef("pk"), slice=None, due_at__lte=since)
    idle = (
        Run.objects.exclude(pk=but)
        .exclude(state__in=FINAL_STATES)
        .exclude(Exists(Slice.objects.filter(run=OuterRef("pk"))))
        .filter(Exists(waiting))
    )
    return any(_quiet_until(run) <= since.timestamp() for run in idle.only("signs", "wake_at"))


def _quiet_until(run: Run) -> float:
    """A host that is down is probed later, one that asked for a pause is left alone, and one whose
    budget is spent has nothing to send."""
    parked_until = run.wake_at.timestamp() if run.wake_at else 0.0
    signs = run.signs
    return float(max(signs.get("probe_after", 0.0), signs.get("held_until", 0.0), parked_until))


def _end_at_deadline(run: Run) -> NextStep:
    if run.signs.get("down_since"):
        error, reason = _why_dead(Signs.of(run.signs))
        ledger.settle_unsent(run, outcome=Outcome.FAILED, error=error, reason=reason)
    else:
        reason = _("The run's deadline came before this request was sent.")
        ledger.settle_unsent(run, outcome=Outcome.CANCELLED, error="deadline", reason=reason)
    return _finish(run, why_ended="deadline")


def _next_step(run: Run, *, is_worked_on: bool) -> NextStep:
    next_due = ledger.next_due_at(run.pk)
    if next_due is None:
        return NextStep()
    if quiet_until := _quiet_until(run):
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
        wait = min(retry.cap_seconds, retry.base_seconds * 2.0 ** min(run.sweeps_done, 30))
        count = ledger.open_pass(
            run, outcomes=outcomes, until=run.deadline_at, rest=timedelta(seconds=wait)
        )
        if count:
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
    now = timezone.now()
    run.active_seconds = run.count_active_seconds(now)
    run.finished_at = now
    run.save(
        update_fields=[
            *("state", "why_ended", "finished_at", "active_seconds"),
            *(f"{name}_count" for name in counts),
        ]
    )
    Job.objects.filter(run=run).update(
        state=JobState.FAILED if run.state == RunState.CRASHED else JobState.FINISHED,
        finished_at=run.finished_at,
    )
    add_event(run, message=_final_message(run))
    # Also where no slice is left to say so: a run that was cancelled while it waited.
    transaction.on_commit(partial(hosts.leave_host, run.pk))
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
    Raises RunActive, NothingToSweep, SourceArchived or SourceChanged.
    """
    with transaction.atomic():
        # Starting a run takes the same lock: a source has one active run.
        source_id = Run.objects.values_list("source", flat=True).get(pk=run_id)
        source = Source.objects.select_for_update(no_key=True).get(pk=source_id)
        if source.archived_at:
            raise SourceArchived(_("The source is archived."))
        run = _lock(run_id)
        if not run.is_finished:
            raise RunActive(run.pk)
        active = Run.objects.filter(source=run.source).exclude(state__in=FINAL_STATES).first()
        if active:
            raise RunActive(active.pk)
        configuration = _present_configuration_of(run)
        count = ledger.open_pass(run, outcomes=frozenset(SWEPT_BY_HAND - configuration.accepted))
        if not count:
            raise NothingToSweep(_("Nothing is missing in this run."))
        run.sweeps_done = max(run.sweeps_done, configuration.retry.sweeps, 1)
        message = _("%(count)d requests are sent once more, by hand.") % {"count": count}
        _reopen(run, configuration, message=message)
        return run


def reopen_where_blocked(source: Source) -> Run | None:
    """The source has other keys or proxies now: its last run goes on where it was blocked.

    None where the last run was not blocked. Call it inside a transaction that has locked the
    source.
    """
    if Run.objects.filter(source=source).exclude(state__in=FINAL_STATES).exists():
        return None  # an older one may be swept
    last = Run.objects.filter(source=source).values_list("pk", "state").first()
    if last is None or last[1] != RunState.BLOCKED:
        return None
    run = _lock(last[0])
    try:
        configuration = _present_configuration_of(run)
    except SourceChanged:
        return None  # another host by now: nothing of the old run can be asked there
    # What was denied before the block may have been about the same key.
    if not ledger.open_pass(run, outcomes=frozenset({Outcome.BLOCKED, Outcome.DENIED})):
        return None
    message = _("The source's keys or proxies were replaced: the run goes on.")
    _reopen(run, configuration, message=message)
    return run


def forget_credentials(source: Source) -> None:
    """The source has other keys or proxies now: none of them rests, or was denied, for what another
    one did.

    Call it inside a transaction that has locked the source.
    """
    active = Run.objects.filter(source=source).exclude(state__in=FINAL_STATES).first()
    if active is not None:
        run = _lock(active.pk)
        run.signs = Signs.of(run.signs).without_credentials().as_json()
        run.save(update_fields=["signs"])


def require_workable(source: Source) -> None:
    """Raises RunActive where the source as it is now would leave its active run without secrets."""
    run = Run.objects.filter(source=source).exclude(state__in=FINAL_STATES).first()
    if run is not None:
        run.source = source
        try:
            _present_configuration_of(run)
        except SourceChanged as error:
            raise RunActive(run.pk) from error


def _present_configuration_of(run: Run) -> SourceConfiguration:
    try:
        return configuration_of(run)
    except ConfigurationInvalid as error:
        raise SourceChanged(
            _("The source's keys do not fit this run any more: %(why)s") % {"why": error.message}
        ) from error


def _reopen(run: Run, configuration: SourceConfiguration, *, message: str) -> None:
    now = timezone.now()
    run.active_seconds = run.count_active_seconds(now)
    run.started_at = run.started_at or now
    run.resumed_at = now
    run.deadline_at = now + timedelta(seconds=configuration.limits.deadline_seconds)
    run.failures_in_a_row = 0
    run.signs = _remember_rate(run.source_id) | {
        "has_answer": run.signs.get("has_answer", False),
        # What shut us out may still do so: then every row tells of it.
        "has_good": run.signs.get("has_good", False) and run.state != RunState.BLOCKED,
    }
    run.finished_at = run.wake_at = None
    run.why_ended = run.waits_for = ""
    run.state = RunState.SWEEPING if run.sweeps_done else RunState.FETCHING
    run.save(
        update_fields=[
            *("state", "why_ended", "started_at", "resumed_at", "active_seconds", "finished_at"),
            *("deadline_at", "sweeps_done", "failures_in_a_row", "signs", "wake_at", "waits_for"),
        ]
    )
    Job.objects.filter(run=run).update(state=JobState.RUNNING, finished_at=None)
    add_event(run, message=message)

"""The tables of ingestion: sources, runs, the request ledger, records, errors, roll-ups, outbox.

Rules that the data must obey are named constraints. `Outbox` rows are written by database triggers
(`ingest/outbox.py`), never from Python.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ingest.outcomes import FINAL_STATES, Outcome, RunState


class Source(models.Model):
    """What to ask: an upstream API, its plan, and its limits.

    `configuration` is the validated JSON without secrets; `sealed_secrets` holds those, encrypted.
    """

    slug = models.SlugField(_("slug"), max_length=64, unique=True)
    name = models.CharField(_("name"), max_length=200)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="sources",
        verbose_name=_("owner"),
    )
    configuration = models.JSONField(_("configuration"))
    sealed_secrets = models.BinaryField(_("secrets (encrypted)"), default=bytes, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True)

    class Meta:
        ordering = ["slug"]
        verbose_name = _("source")
        verbose_name_plural = _("sources")

    def __str__(self) -> str:
        return self.slug


class LimitKind(models.TextChoices):
    """What a run may wait for before its next send."""

    RATE = "rate", _("the limit per second")
    WINDOW = "window", _("the window of requests")
    BATCH = "batch", _("the pause after a batch")
    QUOTA = "quota", _("the quota's next period")
    HOLD = "hold", _("the delay that the host has asked for")


class Run(models.Model):
    """One execution of a source's plan, with the configuration that it ran under.

    The ten `*_count` columns are set from the ledger in the finishing transaction; while the run is
    active they are not maintained (`selectors.count_outcomes` counts the ledger). `signs` carries
    what the slices tell each other about the upstream (`ingest.fetch.signs`). A run that is swept
    by hand is active several times: `active_seconds` sums up those that are over, `resumed_at` is
    when the present one began.
    """

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="runs")
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="runs"
    )
    configuration = models.JSONField(_("configuration at the start"))
    state = models.CharField(
        _("state"), max_length=16, choices=RunState.choices, default=RunState.PLANNED
    )
    planned_total = models.PositiveIntegerField(_("planned requests"), default=0)
    planned_count = models.PositiveIntegerField(default=0)
    delivered_count = models.PositiveIntegerField(default=0)
    empty_count = models.PositiveIntegerField(default=0)
    malformed_count = models.PositiveIntegerField(default=0)
    missing_count = models.PositiveIntegerField(default=0)
    denied_count = models.PositiveIntegerField(default=0)
    refused_count = models.PositiveIntegerField(default=0)
    blocked_count = models.PositiveIntegerField(default=0)
    failed_count = models.PositiveIntegerField(default=0)
    cancelled_count = models.PositiveIntegerField(default=0)
    records_new = models.PositiveIntegerField(default=0)
    records_changed = models.PositiveIntegerField(default=0)
    records_unchanged = models.PositiveIntegerField(default=0)
    upstream_total = models.PositiveBigIntegerField(null=True, blank=True)
    why_ended = models.CharField(max_length=64, blank=True)
    sweeps_done = models.PositiveSmallIntegerField(default=0)
    failures_in_a_row = models.PositiveSmallIntegerField(default=0)
    signs = models.JSONField(default=dict)
    event_seq = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    started_at = models.DateTimeField(_("first request sent"), null=True, blank=True)
    deadline_at = models.DateTimeField(_("deadline"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    resumed_at = models.DateTimeField(null=True, blank=True)
    active_seconds = models.FloatField(default=0.0)
    # Parked by the budget: nothing may be sent before then, and why.
    wake_at = models.DateTimeField(null=True, blank=True)
    waits_for = models.CharField(max_length=16, choices=LimitKind.choices, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        constraints = [
            models.CheckConstraint(
                name="run_books_balance",
                condition=~Q(state__in=sorted(FINAL_STATES))
                | Q(
                    planned_count=0,
                    planned_total=F("delivered_count")
                    + F("empty_count")
                    + F("malformed_count")
                    + F("missing_count")
                    + F("denied_count")
                    + F("refused_count")
                    + F("blocked_count")
                    + F("failed_count")
                    + F("cancelled_count"),
                    finished_at__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="run_state_known", condition=Q(state__in=sorted(RunState.values))
            ),
            models.UniqueConstraint(
                name="run_one_active_per_source",
                fields=["source"],
                condition=~Q(state__in=sorted(FINAL_STATES)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.source_id}/{self.pk}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def is_parked(self) -> bool:
        """Its budget is spent for a while: nothing is sent before `wake_at`, for `waits_for`."""
        return not self.is_finished and self.wake_at is not None and self.wake_at > timezone.now()

    def count_active_seconds(self, now: datetime) -> float:
        """How long the run has been at work, without the time between its end and a sweep."""
        began_at = self.resumed_at or self.started_at
        if began_at is None or (self.finished_at and self.active_seconds):
            return self.active_seconds
        return self.active_seconds + ((self.finished_at or now) - began_at).total_seconds()


class Slice(models.Model):
    """A worker's lease on part of a run. The rows that it holds are free again when it expires.

    Every flush renews the lease in its own transaction and gives up when the lease is gone, so a
    worker that was paused past its lease can write nothing.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="slices")
    worker = models.CharField(max_length=255)
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.worker} on run {self.run_id}"


class Request(models.Model):
    """A row of the ledger: one planned request, and what became of it.

    Due when `due_at` has come and nobody holds it. `attempts` counts every send, `pass_attempts`
    those of the present pass (first pass or sweep), `backoff_step` its waits that the upstream did
    not name.
    """

    # No index of its own, as elsewhere below: it stands first in another one, and each index is
    # paid for in every flush.
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="requests", db_index=False)
    position = models.PositiveIntegerField()
    key = models.TextField()
    role = models.CharField(max_length=16, blank=True)
    outcome = models.CharField(max_length=16, choices=Outcome.choices, default=Outcome.PLANNED)
    attempts = models.PositiveIntegerField(default=0)
    pass_attempts = models.PositiveIntegerField(default=0)
    backoff_step = models.PositiveSmallIntegerField(default=0)
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    latency_ms = models.FloatField(null=True, blank=True)
    record_count = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=64, blank=True)
    evidence = models.JSONField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    slice = models.ForeignKey(
        Slice, on_delete=models.SET_NULL, null=True, related_name="requests", db_index=False
    )

    class Meta:
        ordering = ["run_id", "position"]
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        constraints = [
            models.UniqueConstraint(name="request_once_per_run", fields=["run", "position"]),
            models.CheckConstraint(
                name="request_outcome_known", condition=Q(outcome__in=sorted(Outcome.values))
            ),
            models.CheckConstraint(
                name="request_planned_means_never_answered",
                condition=~Q(outcome=Outcome.PLANNED) | Q(finished_at__isnull=True),
            ),
        ]
        indexes = [
            models.Index(name="request_run_outcome", fields=["run", "outcome"]),
            # Just the rows that may be claimed, in the order in which they are.
            models.Index(
                name="request_claimable",
                fields=["run", "due_at", "position"],
                condition=Q(due_at__isnull=False, slice__isnull=True),
            ),
            models.Index(name="request_held", fields=["slice"], condition=Q(slice__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.outcome}"


class Delivery(models.Model):
    """That an answer carried a record: (request, position in the answer) → record key."""

    run = models.ForeignKey(
        Run, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    request = models.ForeignKey(
        Request, on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    position = models.PositiveIntegerField()
    record_key = models.TextField()
    content_hash = models.CharField(max_length=32)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="delivery_once", fields=["request", "position"])
        ]
        indexes = [models.Index(name="delivery_run_key", fields=["run", "record_key"])]

    def __str__(self) -> str:
        return self.record_key


class Record(models.Model):
    """What an upstream delivered, the latest version of each key of a source.

    `occurred_at` falls back to the time first stored when the upstream names none that is readable
    (`occurred_at_noted` then says so). `outcome` and `status_code` are those of the request that
    last delivered it.
    """

    source = models.ForeignKey(
        Source, on_delete=models.CASCADE, related_name="records", db_index=False
    )
    key = models.TextField()
    title = models.TextField(blank=True)
    body = models.TextField(blank=True)
    data = models.JSONField()
    weight = models.FloatField(null=True, blank=True)
    occurred_at = models.DateTimeField()
    occurred_at_noted = models.CharField(max_length=120, blank=True)
    content_hash = models.CharField(max_length=32)
    outcome = models.CharField(max_length=16, choices=Outcome.choices, default=Outcome.DELIVERED)
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    stored_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        verbose_name = _("record")
        verbose_name_plural = _("records")
        constraints = [
            models.UniqueConstraint(name="record_key_once_per_source", fields=["source", "key"])
        ]
        indexes = [
            models.Index(name="record_source_time", fields=["source", "occurred_at"]),
            models.Index(name="record_time", fields=["occurred_at", "id"]),
        ]

    def __str__(self) -> str:
        return f"{self.source_id}:{self.key}"


class ErrorLog(models.Model):
    """One failed attempt of the fetcher, or one failed answer of this server.

    A fetch error names source, run, request and attempt; a server error names path, user and the
    correlation id of the request.
    """

    error_type = models.CharField(_("type"), max_length=200)
    outcome = models.CharField(_("outcome"), max_length=16, blank=True)
    status_code = models.PositiveSmallIntegerField(_("status"), null=True, blank=True)
    message = models.TextField(_("message"))
    url = models.TextField(_("URL"), blank=True)
    path = models.TextField(_("path"), blank=True)
    trace = models.TextField(_("trace"), blank=True)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, null=True, related_name="errors")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, null=True, related_name="errors")
    request = models.ForeignKey(
        Request, on_delete=models.CASCADE, null=True, related_name="errors", db_index=False
    )
    attempt = models.PositiveIntegerField(null=True)
    correlation_id = models.CharField(_("request id"), max_length=64, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    occurred_at = models.DateTimeField(_("time"), db_index=True)

    class Meta:
        ordering = ["-occurred_at", "-id"]
        verbose_name = _("error")
        verbose_name_plural = _("error log")
        constraints = [
            models.UniqueConstraint(
                name="error_once_per_attempt",
                fields=["request", "attempt"],
            )
        ]

    def __str__(self) -> str:
        return f"{self.error_type} - {self.status_code} - {self.occurred_at:%Y-%m-%d %H:%M:%S}"


class EventKind(models.TextChoices):
    """What an event is for: counts only, a step that people read, or something to act upon."""

    PROGRESS = "progress", _("progress")
    STEP = "step", _("step")
    ALERT = "alert", _("alert")


class RunEvent(models.Model):
    """A numbered step of a run, for people who watch it; `seq` rises by one per run.

    An alert wants somebody to act; `details` then hold the evidence. Whoever sends alerts on, by
    mail or webhook, reads these rows: they are committed together with what they tell.
    """

    kind = models.CharField(
        max_length=16, choices=EventKind.choices, default=EventKind.PROGRESS, editable=False
    )
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=RunState.choices)
    planned = models.PositiveIntegerField()
    done = models.PositiveIntegerField()
    outcomes = models.JSONField()
    message = models.TextField(blank=True)
    details = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run_id", "seq"]
        verbose_name = _("run event")
        verbose_name_plural = _("run events")
        constraints = [models.UniqueConstraint(name="run_event_numbered", fields=["run", "seq"])]
        indexes = [
            models.Index(
                name="run_event_alert", fields=["created_at"], condition=Q(kind=EventKind.ALERT)
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}#{self.seq} {self.state}"


class Outbox(models.Model):
    """A document whose last committed change is not yet searchable. Written by triggers only.

    `version` is a random token of the latest change, compared for equality: the drainer removes the
    row only when it still carries the token that was read.
    """

    kind = models.CharField(max_length=16)
    object_id = models.BigIntegerField()
    version = models.BigIntegerField()
    queued_at = models.DateTimeField()
    attempts = models.PositiveSmallIntegerField(default=0)
    parked_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        verbose_name = _("outbox note")
        verbose_name_plural = _("outbox")
        constraints = [
            models.UniqueConstraint(name="outbox_once_per_document", fields=["kind", "object_id"])
        ]
        indexes = [
            # Every search counts the parked ones; there are next to none.
            models.Index(
                name="outbox_parked", fields=["parked_at"], condition=Q(parked_at__isnull=False)
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind}-{self.object_id}"


class ChangeToken(models.Model):
    """A random token that is another one after each change of what it is named after.

    Written in the transaction of the change, so that a kept answer which was made under the present
    token is still true: `sources` by triggers, `index` by whoever moves the index.
    """

    name = models.CharField(max_length=16, primary_key=True)
    token = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.name} {self.token}"


class Bucket(models.Model):
    """Roll-up of one minute of a run: how many sends ended in an outcome, how long they took."""

    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="buckets")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="buckets")
    started_at = models.DateTimeField()
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    sends = models.PositiveIntegerField()
    records = models.PositiveIntegerField()
    latency_ms_sum = models.FloatField()
    latency_ms_max = models.FloatField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="bucket_once_per_minute", fields=["run", "started_at", "outcome"]
            )
        ]
        indexes = [
            models.Index(name="bucket_time", fields=["started_at", "source"]),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.started_at:%Y-%m-%d %H:%M} {self.outcome}"


class HostUse(models.Model):
    """Until when a host (scheme://host:port) may be in use by sends, noted before they leave."""

    origin = models.CharField(max_length=300, unique=True)
    used_until = models.DateTimeField()

    def __str__(self) -> str:
        return self.origin


class QuotaUse(models.Model):
    """How many sends of a calendar period of a host were handed out (`ingest.hosts`)."""

    origin = models.CharField(max_length=300)
    period = models.CharField(max_length=20)
    granted = models.PositiveBigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(name="quota_once_per_period", fields=["origin", "period"])
        ]

    def __str__(self) -> str:
        return f"{self.origin} {self.period}"


class JobState(models.TextChoices):
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("on progress")
    FINISHED = "finished", _("finished")
    FAILED = "failed", _("failed")


class Job(models.Model):
    """An expensive task: who asked for it, how far it is, how it ended."""

    kind = models.CharField(_("kind"), max_length=32)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="jobs"
    )
    run = models.OneToOneField(Run, on_delete=models.CASCADE, null=True, related_name="job")
    state = models.CharField(
        _("state"), max_length=16, choices=JobState.choices, default=JobState.QUEUED
    )
    done = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(default=0)
    message = models.TextField(blank=True)
    result = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("job")
        verbose_name_plural = _("jobs")

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"

    @property
    def progress(self) -> float:
        """Share done, 0..1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

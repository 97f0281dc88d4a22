"""What may be done with sources and runs: the writes of ingestion, for API, pages and commands."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from ingest import runs
from ingest.configuration import check_storable, merge_patch, parse_configuration
from ingest.errors import ConfigurationInvalid, RunActive, SourceArchived
from ingest.models import Run, Source
from ingest.outcomes import FINAL_STATES
from ingest.schedules import keep_schedule
from ingest.secrets import attach_secrets, detach_secrets, list_credentials, rotate, seal, unseal

# What GET adds to the configuration: a client that edits an answer and sends it back means no harm.
READ_ONLY = frozenset({"owner", "created_at", "updated_at"})

logger = logging.getLogger(__name__)


def create_source(*, owner: Any, data: object) -> Source:
    """A new source from its configuration JSON. Raises ConfigurationInvalid by path."""
    configuration = parse_configuration(data)
    public, secrets = detach_secrets(configuration.as_json())
    try:
        with transaction.atomic():
            source = Source.objects.create(
                slug=configuration.slug,
                name=public["name"],
                owner=owner,
                configuration=public,
                sealed_secrets=seal(secrets),
            )
            keep_schedule(source)
            return source
    except IntegrityError as error:
        raise ConfigurationInvalid(
            {"slug": [_("A source with this slug exists already.")]}
        ) from error


def update_source(*, source: Source, patch: object) -> Source:
    """Applies a JSON merge patch (RFC 7396); secrets stay unless they are sent.

    A list is replaced as a whole: `{"set": true}` in it stands for the secret that was stored at
    the same place. Other keys or proxies count for an active run from its next slice on, and
    re-open the last run where it was blocked. Raises ConfigurationInvalid by path, and RunActive
    where an active run could not go on with them.
    """
    if not isinstance(patch, Mapping):
        raise ConfigurationInvalid({"configuration": [_("must be a JSON object.")]})
    if patch.get("slug", source.slug) != source.slug:
        raise ConfigurationInvalid({"slug": [_("cannot be changed.")]})
    changes = {name: value for name, value in patch.items() if name not in READ_ONLY}
    check_storable(changes)
    with transaction.atomic():
        # Two patches at once: the second builds on what the first has stored.
        source = Source.objects.select_for_update(no_key=True).get(pk=source.pk)
        merged = merge_patch(source.configuration, changes)
        assert isinstance(merged, dict)  # noqa: S101 - a mapping patched by a mapping
        stored = unseal(source.sealed_secrets)
        before = attach_secrets(source.configuration, stored)
        configuration = parse_configuration(attach_secrets(merged, stored))
        public, secrets = detach_secrets(configuration.as_json())
        source.name = public["name"]
        source.configuration = public
        source.sealed_secrets = seal(secrets)
        source.save(update_fields=["name", "configuration", "sealed_secrets", "updated_at"])
        keep_schedule(source)
        runs.require_workable(source)
        after = configuration.as_json()
        reopened = None
        if list_credentials(before) != list_credentials(after):
            runs.forget_credentials(source)
            reopened = runs.reopen_where_blocked(source)
    if reopened:
        wake_run(reopened.pk)
    return source


def sources_with_secrets() -> Iterator[Source]:
    return Source.objects.exclude(sealed_secrets=b"").order_by("slug").iterator()


def rotate_secrets(source: Source) -> None:
    """Seals the source's secrets with the first of PORTAL_ENCRYPTION_KEYS.

    Raises ImproperlyConfigured where none of them opens what is stored.
    """
    with transaction.atomic():
        # A patch that comes between would be overwritten by what was there before it.
        stored = Source.objects.select_for_update(no_key=True).get(pk=source.pk).sealed_secrets
        Source.objects.filter(pk=source.pk).update(sealed_secrets=rotate(stored))


def archive_source(*, source: Source) -> None:
    """Takes a source out of use and purges it in the background. Raises RunActive."""
    from ingest.tasks import purge_source

    with transaction.atomic():
        locked = Source.objects.select_for_update(no_key=True).get(pk=source.pk)
        active = Run.objects.filter(source=locked).exclude(state__in=FINAL_STATES).first()
        if active:
            raise RunActive(active.pk)
        locked.archived_at = timezone.now()
        # The name is free again at once.
        locked.slug = f"{locked.slug[:40]}~{locked.pk}"
        locked.save(update_fields=["archived_at", "slug", "updated_at"])
        keep_schedule(locked)
    _send(purge_source, source.pk)


def start_run(*, source: Source, user: Any) -> Run:
    """Plans a run and wakes the workers; it waits while none is up. Raises RunActive."""
    run = runs.create_run(source, user=user)
    wake_run(run.pk)
    return run


def start_scheduled_run(source_id: int) -> Run | None:
    """A run for the source's owner, because its schedule came round.

    None where a run is still active, which is said among its events, or the source is gone.
    """
    source = Source.objects.filter(pk=source_id, archived_at=None).first()
    if source is None or not source.configuration.get("schedule"):
        return None
    try:
        run = start_run(source=source, user=source.owner)
    except SourceArchived:
        return None
    except RunActive as error:
        logger.info("The schedule of %s came round during run %d.", source.slug, error.run_id)
        runs.note_step(
            error.run_id, _("The schedule came round during this run; no second one was started.")
        )
        return None
    runs.note_step(run.pk, _("Started by the source's schedule."))
    return run


def cancel_run(*, run: Run, by: str = "") -> Run:
    """Stops an active run. Raises RunNotActive."""
    return runs.cancel_run(run.pk, by=by or _("hand"))


def sweep_run(*, run: Run) -> Run:
    """Sends every gap of a finished run once more. Raises RunActive or NothingToSweep."""
    swept = runs.reopen_for_sweep(run.pk)
    wake_run(swept.pk)
    return swept


def wake_run(run_id: int) -> None:
    """Asks a fetch worker to look at the run."""
    from ingest.tasks import run_slice

    _send(run_slice, run_id)


def _send(task: Any, *args: Any) -> None:
    """A wake-up is a hint: without a broker the regular scan finds the work in the database."""
    try:
        task.delay(*args)
    except task.OperationalError as error:
        logger.warning("The broker is not reachable; %s waits for the scan: %s", task.name, error)

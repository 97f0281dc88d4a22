"""The smallest valid object of each table; a test states only the fields that it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import factory as factory_boy
from django.contrib.auth import get_user_model
from factory.django import DjangoModelFactory

from ingest import models
from ingest.configuration import parse_configuration
from ingest.outcomes import Outcome, RunState

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


# Calling a factory gives a model; factory_boy cannot tell that to a type checker.
factory: Any = factory_boy
ModelFactory: Any = DjangoModelFactory


class UserFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = get_user_model()

    email = factory.Sequence(lambda n: f"person{n}@example.org")


def configure(slug: str, **parts: Any) -> dict[str, Any]:
    """A configuration as it is stored: valid, every default spelled out."""
    return parse_configuration(
        {
            "slug": slug,
            "request": {"url": "https://api.example.org/cities/{id}"},
            "plan": {"type": "range", "name": "id", "start": 1, "stop": 3},
            **parts,
        }
    ).as_json()


class SourceFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.Source

    slug = factory.Sequence(lambda n: f"source-{n}")
    name = factory.SelfAttribute("slug")
    owner = factory.SubFactory(UserFactory)
    configuration = factory.LazyAttribute(lambda source: configure(source.slug))


class RunFactory(ModelFactory):  # type: ignore[misc]
    """A run that has just been planned; the `finished` trait makes a complete one without rows."""

    class Meta:
        model = models.Run

    class Params:
        finished = factory.Trait(
            state=RunState.COMPLETE,
            started_at=NOON,
            finished_at=NOON + timedelta(seconds=10),
        )

    source = factory.SubFactory(SourceFactory)
    configuration = factory.LazyAttribute(
        lambda run: {"version": 1, "source": run.source.configuration}
    )
    state = RunState.PLANNED


class RequestFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.Request

    run = factory.SubFactory(RunFactory)
    position = factory.Sequence(int)
    key = factory.LazyAttribute(lambda row: str(row.position + 1))
    outcome = Outcome.PLANNED


class RecordFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.Record

    source = factory.SubFactory(SourceFactory)
    key = factory.Sequence(str)
    data = factory.LazyAttribute(lambda record: {"id": record.key})
    content_hash = "0" * 32
    occurred_at = NOON
    stored_at = NOON
    updated_at = NOON


class ServerErrorFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.ErrorLog

    error_type = "HTTP Error"
    status_code = 404
    message = "Not Found"
    path = "/nowhere/"
    occurred_at = NOON


class FetchErrorFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.ErrorLog

    error_type = "HTTP Error"
    outcome = Outcome.FAILED
    status_code = 500
    message = "Internal Server Error"
    url = "https://api.example.org/cities/1"
    request = factory.SubFactory(RequestFactory)
    run = factory.SelfAttribute("request.run")
    source = factory.SelfAttribute("request.run.source")
    attempt = 1
    occurred_at = NOON


class JobFactory(ModelFactory):  # type: ignore[misc]
    class Meta:
        model = models.Job

    kind = "run"
    user = factory.SubFactory(UserFactory)


def finish_run(source: models.Source, outcomes: list[str], **fields: Any) -> models.Run:
    """A finished run whose ledger holds one row per outcome, its books in balance."""
    counts = {f"{outcome}_count": outcomes.count(outcome) for outcome in set(outcomes)}
    run = RunFactory(
        source=source,
        state=fields.pop("state", RunState.INCOMPLETE),
        planned_total=len(outcomes),
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=10),
        **counts,
        **fields,
    )
    for position, outcome in enumerate(outcomes):
        RequestFactory(
            run=run,
            position=position,
            outcome=outcome,
            attempts=1,
            finished_at=NOON,
            status_code=200 if outcome == Outcome.DELIVERED else 500,
        )
    return run

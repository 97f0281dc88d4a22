"""Database triggers that keep the hour tier equal to the sum of the minute buckets.

A month of five busy sources is 300,000 minutes: too many to add up for each look at a chart, 60
times fewer as hours. Triggers, because they hold for every writer and share its transaction: the
tiers cannot disagree. They are installed after every migrate, idempotently: SQLite loses a table's
triggers when Django remakes the table.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

_MINUTES, _HOURS = "ingest_bucket", "analytics_hourbucket"

_HOUR_OF = {
    "sqlite": "substr({row}.started_at, 1, 13) || ':00:00'",
    "postgresql": "date_trunc('hour', {row}.started_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'",
}

_LARGER = "CASE WHEN {a} > {b} THEN {a} ELSE {b} END"
_SMALLER = "CASE WHEN {a} < {b} THEN {a} ELSE {b} END"

_ADD = """
INSERT INTO {hours} (source_id, started_at, outcome, sends, records, latency_ms_sum,
                     latency_ms_max, first_run_id, last_run_id)
VALUES (NEW.source_id, {hour}, NEW.outcome, NEW.sends, NEW.records, NEW.latency_ms_sum,
        NEW.latency_ms_max, NEW.run_id, NEW.run_id)
ON CONFLICT (started_at, source_id, outcome) DO UPDATE SET
    sends = {hours}.sends + excluded.sends,
    records = {hours}.records + excluded.records,
    latency_ms_sum = {hours}.latency_ms_sum + excluded.latency_ms_sum,
    latency_ms_max = {longer},
    first_run_id = {first},
    last_run_id = {last};"""

_SUBTRACT = """
UPDATE {hours} SET sends = sends - OLD.sends, records = records - OLD.records,
    latency_ms_sum = latency_ms_sum - OLD.latency_ms_sum
WHERE started_at = {hour} AND source_id = OLD.source_id AND outcome = OLD.outcome;
DELETE FROM {hours}
WHERE started_at = {hour} AND source_id = OLD.source_id AND outcome = OLD.outcome AND sends <= 0;"""

# An update is the new row added and the old one taken away. In this order: else the hour of a
# single minute would be deleted and made anew by each flush, and forget its longest latency.
_EVENTS = {"INSERT": (_ADD,), "UPDATE": (_ADD, _SUBTRACT), "DELETE": (_SUBTRACT,)}


def connect() -> None:
    post_migrate.connect(_install_after_migrate, dispatch_uid="analytics.hours")


def _install_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    if sender.name in ("ingest", "analytics"):
        install_triggers(using=using)


def install_triggers(*, using: str = "default") -> None:
    """(Re)create the triggers. Does nothing while the tables are not there.

    In one transaction: no flush may meet none of them, and one that is killed leaves the old ones.
    """
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        if not {_MINUTES, _HOURS} <= set(connection.introspection.table_names(cursor)):
            return
        for statement in trigger_statements(connection):
            cursor.execute(statement)


def trigger_statements(connection: BaseDatabaseWrapper) -> list[str]:
    """The DDL for this database; run all of it, in order."""
    build = {"sqlite": _sqlite_trigger, "postgresql": _postgresql_trigger}[connection.vendor]
    return [sql for event in _EVENTS for sql in build(event)]


def _body(event: str, vendor: str) -> str:
    parts = []
    for template in _EVENTS[event]:
        row = "NEW" if template is _ADD else "OLD"
        parts.append(
            template.format(
                hours=_HOURS,
                hour=_HOUR_OF[vendor].format(row=row),
                longer=_LARGER.format(a=f"{_HOURS}.latency_ms_max", b="excluded.latency_ms_max"),
                first=_SMALLER.format(a=f"{_HOURS}.first_run_id", b="excluded.first_run_id"),
                last=_LARGER.format(a=f"{_HOURS}.last_run_id", b="excluded.last_run_id"),
            )
        )
    return "".join(parts)


def _sqlite_trigger(event: str) -> list[str]:
    name = f"hour_bucket_{event.lower()}"
    return [
        f"DROP TRIGGER IF EXISTS {name}",
        f"CREATE TRIGGER {name} AFTER {event} ON {_MINUTES} BEGIN {_body(event, 'sqlite')} END",
    ]


def _postgresql_trigger(event: str) -> list[str]:
    name = f"hour_bucket_{event.lower()}"
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {_body(event, 'postgresql')} RETURN NULL; END $$",
        f"DROP TRIGGER IF EXISTS {name} ON {_MINUTES}",
        f"CREATE TRIGGER {name} AFTER {event} ON {_MINUTES} FOR EACH ROW EXECUTE FUNCTION {name}()",
    ]

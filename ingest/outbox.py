"""Database triggers that note every change of a searchable row in the outbox.

Triggers, because every write path must be covered: save, bulk_create, update(), delete(), cascades
and raw SQL; and a rollback takes its notes back with it. They are installed after every migrate,
idempotently: SQLite loses a table's triggers when Django remakes the table.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

# kind → (table, columns whose change matters to search)
WATCHED: dict[str, tuple[str, tuple[str, ...]]] = {
    "record": (
        "ingest_record",
        (
            "source_id",
            "key",
            "title",
            "body",
            "data",
            "weight",
            "occurred_at",
            "outcome",
            "status_code",
        ),
    ),
    "error": (
        "ingest_errorlog",
        (
            "error_type",
            "outcome",
            "status_code",
            "message",
            "url",
            "path",
            "source_id",
            "run_id",
            "user_id",
            "occurred_at",
        ),
    ),
}


def connect() -> None:
    post_migrate.connect(_install_after_migrate, dispatch_uid="ingest.outbox")


def _install_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    if sender.name == "ingest":
        install_triggers(using=using)


def install_triggers(*, using: str = "default") -> None:
    """(Re)create the triggers. Does nothing while the tables are not there.

    In one transaction: what somebody else writes meanwhile meets the old triggers or the new ones.
    """
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        if not {table for table, _ in WATCHED.values()} | {"ingest_outbox"} <= tables:
            return
        for statement in trigger_statements(connection):
            cursor.execute(statement)


def trigger_statements(connection: BaseDatabaseWrapper) -> list[str]:
    if connection.vendor == "sqlite":
        return [sql for kind in WATCHED for sql in _sqlite_triggers(kind)]
    if connection.vendor == "postgresql":
        return [sql for kind in WATCHED for sql in _postgresql_triggers(kind)]
    raise NotImplementedError(f"No outbox triggers for {connection.vendor}.")


_UPSERT = """
INSERT INTO ingest_outbox (kind, object_id, version, queued_at, attempts, reason)
SELECT '{kind}', {row}.id, {version}, {now}, 0, '' {origin} WHERE TRUE
ON CONFLICT (kind, object_id) DO UPDATE
SET version = excluded.version, queued_at = excluded.queued_at, attempts = 0,
    parked_at = NULL, reason = ''"""


def _sqlite_triggers(kind: str) -> list[str]:
    table, columns = WATCHED[kind]
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns)
    statements = []
    for event, row, condition in (
        ("INSERT", "NEW", ""),
        ("UPDATE", "NEW", f"WHEN {changed}"),
        ("DELETE", "OLD", ""),
    ):
        name = f"outbox_{kind}_{event.lower()}"
        upsert = _UPSERT.format(
            kind=kind,
            row=row,
            version="random()",
            now="strftime('%Y-%m-%d %H:%M:%f', 'now')",
            origin="",
        )
        statements += [
            f"DROP TRIGGER IF EXISTS {name}",
            f"CREATE TRIGGER {name} AFTER {event} ON {table} {condition} BEGIN {upsert}; END",
        ]
    return statements


def _postgresql_triggers(kind: str) -> list[str]:
    table, columns = WATCHED[kind]
    # jsonb compares by value: 1 and 1.0, or keys in another order, are no change.
    changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in columns)
    statements = []
    for event, row, condition in (
        ("INSERT", "NEW", ""),
        ("UPDATE", "NEW", f"WHEN ({changed})"),
        ("DELETE", "OLD", ""),
    ):
        name = f"outbox_{kind}_{event.lower()}"
        statements += [
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {_postgresql_upsert(kind, row)}; RETURN NULL; END $$",
            f"CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {condition} "
            f"EXECUTE FUNCTION {name}()",
        ]
    return [*statements, *_postgresql_truncate_trigger(kind)]


def _postgresql_truncate_trigger(kind: str) -> list[str]:
    """TRUNCATE fires no row triggers: all rows are noted before it."""
    table, _ = WATCHED[kind]
    name = f"outbox_{kind}_truncate"
    upsert = _postgresql_upsert(kind, "gone", origin=f"FROM {table} AS gone")
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {upsert}; RETURN NULL; END $$",
        f"CREATE OR REPLACE TRIGGER {name} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
        f"EXECUTE FUNCTION {name}()",
    ]


def _postgresql_upsert(kind: str, row: str, *, origin: str = "") -> str:
    return _UPSERT.format(
        kind=kind,
        row=row,
        # Strong randomness, so that neither setseed() nor a clock set back repeats a token;
        # hashed, because some bits of a UUID are the same in all of them.
        version="('x' || left(md5(gen_random_uuid()::text), 16))::bit(64)::bigint",
        now="clock_timestamp()",
        origin=origin,
    )

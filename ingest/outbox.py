"""Database triggers that note every change of a searchable row in the outbox, of a source in its
`ChangeToken`.

Triggers, because every write path must be covered: save, bulk_create, update(), delete(), cascades
and raw SQL; and a rollback takes its notes back with it. They are installed after every migrate,
idempotently: SQLite loses a table's triggers when Django remakes the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.db.models.signals import post_migrate

if TYPE_CHECKING:
    from ingest.models import Outbox

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
            "request_id",
            "attempt",
            "occurred_at",
        ),
    ),
}


# A document names its source by the slug.
_RENAMED = "NEW.slug <> OLD.slug"
_OF_SOURCE = "held.source_id = NEW.id"
_WRITTEN = {"ingest_outbox", "ingest_source", "ingest_changetoken"}


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
        if not {table for table, _ in WATCHED.values()} | _WRITTEN <= tables:
            return
        for statement in trigger_statements(connection):
            cursor.execute(statement)


def trigger_statements(connection: BaseDatabaseWrapper) -> list[str]:
    if connection.vendor == "sqlite":
        return [
            *(sql for kind in WATCHED for sql in _sqlite_triggers(kind)),
            *_sqlite_token_triggers(),
        ]
    if connection.vendor == "postgresql":
        return [
            *(sql for kind in WATCHED for sql in _postgresql_triggers(kind)),
            *_postgresql_token_triggers(),
        ]
    raise NotImplementedError(f"No outbox triggers for {connection.vendor}.")


_UPSERT = """
INSERT INTO ingest_outbox (kind, object_id, version, queued_at, attempts, reason)
SELECT '{kind}', {row}.id, {version}, {now}, 0, '' {origin} WHERE {where}
ON CONFLICT (kind, object_id) DO UPDATE
SET version = excluded.version, attempts = 0, parked_at = NULL, reason = '',
    -- Since when something of it waits: a row that changes again and again is not fresh.
    queued_at = CASE WHEN ingest_outbox.parked_at IS NULL
        THEN ingest_outbox.queued_at ELSE excluded.queued_at END"""


def _sqlite_triggers(kind: str) -> list[str]:
    table, columns = WATCHED[kind]
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns)
    events = [
        ("insert", f"AFTER INSERT ON {table}", _sqlite_upsert(kind, "NEW")),
        ("update", f"AFTER UPDATE ON {table} WHEN {changed}", _sqlite_upsert(kind, "NEW")),
        ("delete", f"AFTER DELETE ON {table}", _sqlite_upsert(kind, "OLD")),
        (
            "renamed",
            f"AFTER UPDATE OF slug ON ingest_source WHEN {_RENAMED}",
            _sqlite_upsert(kind, "held", origin=f"FROM {table} AS held", where=_OF_SOURCE),
        ),
    ]
    statements = []
    for event, condition, upsert in events:
        name = f"outbox_{kind}_{event}"
        statements += [
            f"DROP TRIGGER IF EXISTS {name}",
            f"CREATE TRIGGER {name} {condition} BEGIN {upsert}; END",
        ]
    return statements


def _sqlite_upsert(kind: str, row: str, *, origin: str = "", where: str = "TRUE") -> str:
    return _UPSERT.format(
        kind=kind,
        row=row,
        version="random()",
        now="strftime('%Y-%m-%d %H:%M:%f', 'now')",
        origin=origin,
        where=where,
    )


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
    return [
        *statements,
        *_postgresql_rename_trigger(kind),
        *_postgresql_truncate_trigger(kind),
    ]


def _postgresql_rename_trigger(kind: str) -> list[str]:
    table, _ = WATCHED[kind]
    name = f"outbox_{kind}_renamed"
    upsert = _postgresql_upsert(kind, "held", origin=f"FROM {table} AS held", where=_OF_SOURCE)
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {upsert}; RETURN NULL; END $$",
        f"CREATE OR REPLACE TRIGGER {name} AFTER UPDATE OF slug ON ingest_source FOR EACH ROW "
        f"WHEN ({_RENAMED}) EXECUTE FUNCTION {name}()",
    ]


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


# Strong randomness, so that neither setseed() nor a clock set back repeats a token; hashed, because
# some bits of a UUID are the same in all of them.
_POSTGRESQL_RANDOM = "('x' || left(md5(gen_random_uuid()::text), 16))::bit(64)::bigint"


def _postgresql_upsert(kind: str, row: str, *, origin: str = "", where: str = "TRUE") -> str:
    return _UPSERT.format(
        kind=kind,
        row=row,
        version=_POSTGRESQL_RANDOM,
        now="clock_timestamp()",
        origin=origin,
        where=where,
    )


_RENEW_SOURCES = """
INSERT INTO ingest_changetoken (name, token) SELECT 'sources', {random} WHERE TRUE
ON CONFLICT (name) DO UPDATE SET token = excluded.token"""


def _sqlite_token_triggers() -> list[str]:
    statements = []
    for event in ("INSERT", "UPDATE", "DELETE"):
        name = f"token_source_{event.lower()}"
        statements += [
            f"DROP TRIGGER IF EXISTS {name}",
            f"CREATE TRIGGER {name} AFTER {event} ON ingest_source "
            f"BEGIN {_RENEW_SOURCES.format(random='random()')}; END",
        ]
    return statements


def _postgresql_token_triggers() -> list[str]:
    return [
        "CREATE OR REPLACE FUNCTION token_source() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {_RENEW_SOURCES.format(random=_POSTGRESQL_RANDOM)}; RETURN NULL; END $$",
        "CREATE OR REPLACE TRIGGER token_source "
        "AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ingest_source FOR EACH STATEMENT "
        "EXECUTE FUNCTION token_source()",
    ]


def try_parked_again(rows: QuerySet[Outbox]) -> int:
    """Lets the parked documents among `rows` wait for the drainer again; how many they were."""
    return rows.filter(parked_at__isnull=False).update(parked_at=None, reason="")

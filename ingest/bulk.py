"""Many rows by few statements: what a flush writes, without a model instance per row.

`bulk_create` builds an instance and a piece of SQL per row; `executemany` lets go of the
interpreter's lock once per row, and the fetching thread takes it. Each was more than half of a
flush (docs/decisions/0063). Here a statement carries its rows as a table of its own, `given`.
Tables, columns and types come from the model; values pass through as they are but for times, and a
JSON column takes JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from typing import Any, Protocol

import orjson
from django.db import connection, models

Model = type[models.Model]
Field = models.Field[Any, Any]
Row = Sequence[Any]
_NOTHING: Mapping[str, Any] = {}


def insert_rows(
    model: Model,
    names: Sequence[str],
    rows: Iterable[Row],
    *,
    shared: Mapping[str, Any] = _NOTHING,
    chunk_rows: int | None = None,
    ignore_conflicts: bool = False,
) -> None:
    """Inserts rows of `names` (attribute names, such as `run_id`) in order.

    `shared` are columns with one value for all rows; further columns get their field's default. A
    statement holds at most `chunk_rows`.
    """
    shared = {**_defaults(model, names), **shared}
    ending = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    statement = _insertion(model, names, shared) + ending
    _write(statement, model, names, rows, shared, chunk_rows)


def upsert_rows(
    model: Model,
    names: Sequence[str],
    rows: Iterable[Row],
    *,
    unique: Sequence[str],
    updated: Sequence[str],
    shared: Mapping[str, Any] = _NOTHING,
    chunk_rows: int | None = None,
) -> None:
    """`insert_rows`; a row that is there already by its `unique` columns gets `updated`."""
    shared = {**_defaults(model, names), **shared}
    keys = ", ".join(_columns(model, unique))
    sets = ", ".join(f"{column} = excluded.{column}" for column in _columns(model, updated))
    statement = f"{_insertion(model, names, shared)} ON CONFLICT ({keys}) DO UPDATE SET {sets}"
    _write(statement, model, names, rows, shared, chunk_rows)


def update_rows(
    model: Model,
    names: Sequence[str],
    rows: Iterable[Row],
    *,
    shared: Mapping[str, Any] = _NOTHING,
    chunk_rows: int | None = None,
) -> None:
    """Sets `names` in existing rows; each of `rows` ends with the primary key."""
    table, key = _table(model), _column(model, _primary_key(model))
    sets = [f"{column} = given.{column}" for column in _columns(model, names)]
    sets += [f"{_column(model, name)} = {_place(model, name)}" for name in shared]
    statement = f"UPDATE {table} SET {', '.join(sets)} FROM given WHERE {table}.{key} = given.{key}"  # noqa: S608 - from the model
    _write(statement, model, [*names, _primary_key(model)], rows, shared, chunk_rows)


def delete_rows(model: Model, pks: Sequence[int]) -> None:
    """Deletes rows by primary key; for tables that no other refers to.

    `filter(pk__in=…)` spends twenty times as long on preparing a list of thousands.
    """
    dialect = _DIALECTS[connection.vendor]
    given, value = dialect.give_keys(pks)
    key = _column(model, _primary_key(model))
    dialect.execute(f"DELETE FROM {_table(model)} WHERE {key} IN ({given})", [value])  # noqa: S608 - from the model


def refresh_statistics(*models: Model) -> None:
    """Lets the database know how many rows a burst of writes has brought.

    PostgreSQL looks itself once a minute. Before that it takes the rows of a new run for a handful,
    and compares thousands with thousands one by one where it joins them.
    """
    _DIALECTS[connection.vendor].refresh_statistics([_table(model) for model in models])


def _defaults(model: Model, names: Sequence[str]) -> dict[str, Any]:
    left = (field for field in model._meta.concrete_fields if field.attname not in names)
    return {field.attname: field.get_default() for field in left if not field.primary_key}


def _insertion(model: Model, names: Sequence[str], shared: Mapping[str, Any]) -> str:
    columns = ", ".join(_columns(model, (*names, *shared)))
    values = [f"given.{column}" for column in _columns(model, names)]
    values += [_place(model, name) for name in shared]
    return (
        f"INSERT INTO {_table(model)} ({columns}) "  # noqa: S608 - from the model
        # Without WHERE, SQLite would take an ON CONFLICT for a condition of a join.
        f"SELECT {', '.join(values)} FROM given WHERE TRUE"
    )


def _write(
    statement: str,
    model: Model,
    names: Sequence[str],
    rows: Iterable[Row],
    shared: Mapping[str, Any],
    chunk_rows: int | None,
) -> None:
    dialect = _DIALECTS[connection.vendor]
    fields = [_field(model, name) for name in names]
    columns = ", ".join(_columns(model, names))
    same = [
        dialect.write_time(value) if isinstance(value, datetime) else value
        for value in shared.values()
    ]
    left = iter(rows)
    while chunk := list(islice(left, chunk_rows or dialect.most_rows)):
        for part in dialect.cut(chunk):
            given, values = dialect.give(fields, part)
            dialect.execute(f"WITH given ({columns}) AS ({given}) {statement}", [*values, *same])


class _Dialect(Protocol):
    most_rows: int

    def place(self, field: Field) -> str:
        """Where a single value of the field stands in a statement."""

    def cut(self, chunk: list[Row]) -> Iterator[list[Row]]:
        """The parts of a chunk that take a statement each."""

    def give(self, fields: Sequence[Field], rows: list[Row]) -> tuple[str, list[Any]]:
        """A query whose result are these rows, and its parameters."""

    def give_keys(self, pks: Sequence[int]) -> tuple[str, Any]:
        """A query whose result are these numbers, and its parameter."""

    def write_time(self, moment: datetime) -> Any: ...

    def execute(self, statement: str, values: list[Any]) -> None: ...

    def refresh_statistics(self, tables: list[str]) -> None: ...


class _Sqlite:
    """A parameter for each value, in statements of a few lengths, which the connection keeps."""

    # As many as a full flush has. SQLite takes 32,766 parameters, Python's build often more.
    most_rows = 500

    def place(self, field: Field) -> str:
        return "?"

    def cut(self, chunk: list[Row]) -> Iterator[list[Row]]:
        start = 0
        while left := len(chunk) - start:
            # Else powers of two: each length is a statement that SQLite compiles.
            size = self.most_rows if left >= self.most_rows else 1 << left.bit_length() - 1
            yield chunk[start : start + size]
            start += size

    def give(self, fields: Sequence[Field], rows: list[Row]) -> tuple[str, list[Any]]:
        values = list(chain.from_iterable(rows))
        for at, field in enumerate(fields):
            if isinstance(field, models.DateTimeField):
                moments = values[at :: len(fields)]
                values[at :: len(fields)] = [each and self.write_time(each) for each in moments]
        row = f"({', '.join('?' * len(fields))})"
        return f"VALUES {', '.join([row] * len(rows))}", values

    def give_keys(self, pks: Sequence[int]) -> tuple[str, Any]:
        return "SELECT value FROM json_each(?)", orjson.dumps(list(pks)).decode()

    def write_time(self, moment: datetime) -> str:
        # As Django writes it, at a twentieth of the price.
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        return moment.isoformat(" ")[: -len("+00:00")]

    def execute(self, statement: str, values: list[Any]) -> None:
        # Not by Django's cursor, which looks for %s in a statement as long as this each time.
        connection.ensure_connection()
        with connection.wrap_database_errors:
            connection.connection.execute(statement, values)

    def refresh_statistics(self, tables: list[str]) -> None:
        """Without statistics SQLite takes the index that has the most of the wanted columns."""


class _Postgresql:
    """One JSON text for all rows, in one statement.

    psycopg takes three times as long to write a list for each column.
    """

    most_rows = 5_000

    def place(self, field: Field) -> str:
        return f"%s::{self._type_of(field)}"

    def cut(self, chunk: list[Row]) -> Iterator[list[Row]]:
        yield chunk

    def give(self, fields: Sequence[Field], rows: list[Row]) -> tuple[str, list[Any]]:
        types = {str(field.column): self._type_of(field) for field in fields}
        # What a JSON column is given is text, which becomes JSON by a cast alone.
        given = ", ".join(
            f'"{column}" {"text" if kind == "jsonb" else kind}' for column, kind in types.items()
        )
        values = ", ".join(f'"{column}"::{kind}' for column, kind in types.items())
        text = orjson.dumps([dict(zip(types, row, strict=True)) for row in rows]).decode()
        return f"SELECT {values} FROM json_to_recordset(%s::json) AS rows({given})", [text]  # noqa: S608 - from the model

    def give_keys(self, pks: Sequence[int]) -> tuple[str, Any]:
        return "SELECT unnest(%s::bigint[])", list(pks)

    def write_time(self, moment: datetime) -> datetime:
        return moment

    def execute(self, statement: str, values: list[Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)

    def refresh_statistics(self, tables: list[str]) -> None:
        # Where the server is at it already, there is no need to.
        self.execute(f"ANALYZE (SKIP_LOCKED) {', '.join(tables)}", [])

    def _type_of(self, field: Field) -> str:
        # Without a length: a cast to varchar(16) cuts what storing it in such a column refuses.
        return re.sub(r"\(.*\)", "", str(field.db_type(connection)))


_DIALECTS: dict[str, _Dialect] = {"sqlite": _Sqlite(), "postgresql": _Postgresql()}


def _place(model: Model, name: str) -> str:
    return _DIALECTS[connection.vendor].place(_field(model, name))


@cache
def _field(model: Model, name: str) -> Field:
    return next(each for each in model._meta.concrete_fields if each.attname == name)


def _primary_key(model: Model) -> str:
    return model._meta.pk.attname


def _table(model: Model) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _columns(model: Model, names: Iterable[str]) -> list[str]:
    return [_column(model, name) for name in names]


@cache
def _column(model: Model, name: str) -> str:
    return connection.ops.quote_name(str(_field(model, name).column))

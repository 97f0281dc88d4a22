"""Many rows by one prepared statement, for the ledger's own tables.

`bulk_create` builds a model instance and a piece of SQL per row, which was measured at more than
half of a flush. Values pass through as they are but for times and JSON; table, columns and the
database's own spelling of both come from the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import connection, models


def insert_rows(
    model: type[models.Model], names: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Inserts rows of `names` (attribute names, such as `run_id`) in order."""
    columns = ", ".join(_column(model, name) for name in names)
    places = ", ".join(_place(model, name) for name in names)
    # Every part of the statement comes from the model.
    _execute(f"INSERT INTO {_table(model)} ({columns}) VALUES ({places})", model, names, rows)  # noqa: S608


def update_rows(
    model: type[models.Model], names: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Sets `names` in existing rows; each of `rows` ends with the primary key."""
    sets = ", ".join(f"{_column(model, name)} = {_place(model, name)}" for name in names)
    pk = model._meta.pk.attname
    statement = f"UPDATE {_table(model)} SET {sets} WHERE {_column(model, pk)} = %s"  # noqa: S608
    _execute(statement, model, [*names, pk], rows)


def _execute(
    statement: str, model: type[models.Model], names: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    converters = [
        (index, convert)
        for index, name in enumerate(names)
        if (convert := _converter(model, name)) is not None
    ]
    converted = []
    for row in rows:
        values = list(row)
        for index, convert in converters:
            if values[index] is not None:
                values[index] = convert(values[index])
        converted.append(values)
    if converted:
        with connection.cursor() as cursor:
            cursor.executemany(statement, converted)


def _field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    return next(each for each in model._meta.concrete_fields if each.attname == name)


def _table(model: type[models.Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _column(model: type[models.Model], name: str) -> str:
    return connection.ops.quote_name(str(_field(model, name).column))


def _place(model: type[models.Model], name: str) -> str:
    is_json = isinstance(_field(model, name), models.JSONField)
    return "%s::jsonb" if is_json and connection.vendor == "postgresql" else "%s"


def _converter(model: type[models.Model], name: str) -> Callable[[Any], Any] | None:
    field = _field(model, name)
    if isinstance(field, models.DateTimeField):
        return connection.ops.adapt_datetimefield_value
    if isinstance(field, models.JSONField):
        return json.dumps
    return None

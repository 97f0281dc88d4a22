"""What is searchable: records and error logs as documents of one shape.

A document is built from the present row, never from a message. The django-elasticsearch-dsl
Documents at the end own the mapping of the Elasticsearch column.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import django_elasticsearch_dsl as dsl
import orjson
from django.conf import settings
from django.db import DatabaseError
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from django_elasticsearch_dsl.registries import registry
from elasticsearch.dsl import MetaField

from ingest.models import ErrorLog, Record
from search.plan import MAX_PREFIX_TYPO_CHARS, MIN_PREFIX_TYPO_CHARS, RANK_UNIT, rank_document
from search.query import Kind, to_microseconds
from search.shelves import shelve
from search.text import fold_words, to_nfc

logger = logging.getLogger(__name__)

# Part of the index's name: raise it whenever a document is built differently, so that a fresh index
# is filled instead of two kinds of documents being mixed.
DOCUMENT_VERSION = 2
# Documents of so many rows are in memory at once.
READ_ROWS = 500
# Python reads no number of more digits, and not many more levels.
MAX_PLAIN_CHARS, MAX_PLAIN_LEVELS = 4_300, 500
_PERHAPS_INFINITE = re.compile(r"[0-9][eE]\+?[0-9]{3}|[0-9]{200}")


class Document(NamedTuple):
    """A document as both engines index it, and as an answer shows it.

    `title` and `body` are NFC. `tie` orders equal scores and is unique. `source`, `outcome` and
    `status` are None where the row has none.
    """

    id: str
    kind: Kind
    source: str | None
    outcome: str | None
    status: int | None
    title: str
    body: str
    data: Any
    at_us: int
    tie: int
    rank: int
    title_words: str
    body_words: str
    title_shelved: str
    body_shelved: str
    title_lengths: str

    def shown(self) -> bytes:
        """What an answer needs of it, as JSON."""
        shown = {
            "id": self.id,
            "kind": self.kind,
            "source": self.source,
            "outcome": self.outcome,
            "status_code": self.status,
            "title": self.title,
            "body": self.body,
            "data": self.data,
            "at_us": self.at_us,
        }
        try:
            return orjson.dumps(shown)
        except orjson.JSONEncodeError:
            # Whole numbers beyond 64 bits, which JSON and the database may have.
            return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()


def name_document(kind: str, pk: int) -> str:
    return f"{kind}-{pk}"


def split_name(document_id: str) -> tuple[str, int]:
    kind, pk = document_id.split("-", 1)
    return kind, int(pk)


def read_documents(kind: str, pks: Iterable[int]) -> Iterator[Document]:
    """The documents of those rows that are there now, one at a time."""
    wanted = list(pks)
    if kind == Kind.RECORD:
        yield from _read_records(wanted)
    elif kind == Kind.ERROR:
        yield from _read_errors(wanted)


def read_sound_documents(
    kind: str, pks: Iterable[int], *, refused: dict[str, str]
) -> Iterator[Document]:
    """As `read_documents`, but a row of which none can be made gets its reason into `refused`.

    An exception in the middle of a batch would cost the engine what it has taken of it so far.
    """
    wanted, read = list(pks), set()
    try:
        for document in read_documents(kind, wanted):
            read.add(document.id)
            yield document
    except (DatabaseError, OSError, MemoryError):
        raise
    except Exception as error:
        left = [pk for pk in wanted if name_document(kind, pk) not in read]
        if not left:
            raise
        if len(left) == 1:
            name = name_document(kind, left[0])
            logger.exception("There is no document of %s.", name)
            refused[name] = f"{type(error).__name__}: {error}"
            return
        # One row breaks the query of all: halve it until the one is alone.
        middle = len(left) // 2
        for part in (left[:middle], left[middle:]):
            yield from read_sound_documents(kind, part, refused=refused)


def _read_records(pks: list[int]) -> Iterator[Document]:
    rows = Record.objects.filter(pk__in=pks).order_by().annotate(json=_DATA_AS_TEXT)
    for row in rows.values_list(*_RECORD_COLUMNS, named=True).iterator(chunk_size=READ_ROWS):
        yield describe_record(row, source=row.source__slug, data=_take_over(row.json))


def _take_over(text: str) -> Any:
    """The JSON of a row as it goes into a document: unread, where nothing about it can be wrong.

    What Python does not read (5,000 digits, a thousand levels), or cannot write again (a lone
    surrogate, which is an escape; 1e400, which is infinite), must be found out now, not by those
    who search.
    """
    is_short = len(text) <= MAX_PLAIN_CHARS
    is_plain = is_short and "\\u" not in text and not _PERHAPS_INFINITE.search(text)
    if is_plain and text.count("[") + text.count("{") <= MAX_PLAIN_LEVELS:
        return orjson.Fragment(text)
    return json.loads(text)


def describe_record(row: Any, *, source: str, data: Any) -> Document:
    """`row` has the attributes of a Record that are named in `_RECORD_COLUMNS`."""
    return build_document(
        kind=Kind.RECORD,
        pk=row.pk,
        source=source,
        outcome=row.outcome,
        status=row.status_code,
        title=row.title or row.key,
        body=row.body,
        data=data,
        occurred_at=row.occurred_at,
        weight=row.weight,
    )


def _read_errors(pks: list[int]) -> Iterator[Document]:
    rows = ErrorLog.objects.filter(pk__in=pks).order_by().values_list(*_ERROR_COLUMNS, named=True)
    for row in rows.iterator(chunk_size=READ_ROWS):
        yield describe_error(row, source=row.source__slug)


def describe_error(row: Any, *, source: str | None) -> Document:
    """`row` has the attributes of an ErrorLog that are named in `_ERROR_COLUMNS`."""
    return build_document(
        kind=Kind.ERROR,
        pk=row.pk,
        source=source,
        outcome=row.outcome or None,
        status=row.status_code,
        title=row.error_type,
        # Without the query: a search that failed must not become the best hit for its own words.
        body="\n".join(filter(None, [row.message, row.path.partition("?")[0], row.url])),
        data={
            "error_type": row.error_type,
            "message": row.message,
            "url": row.url,
            "path": row.path,
            "run": row.run_id,
            "request": row.request_id,
            "attempt": row.attempt,
        },
        occurred_at=row.occurred_at,
        weight=None,
    )


# Plain values: making a model instance of a row costs as much as all the rest of its document.
_RECORD_COLUMNS = (
    *("pk", "key", "title", "body", "json", "weight", "occurred_at", "outcome", "status_code"),
    "source__slug",
)
# Answers show it as it is; nothing here looks into it.
_DATA_AS_TEXT = Cast("data", TextField())
_ERROR_COLUMNS = (
    *("pk", "error_type", "outcome", "status_code", "message", "url", "path", "occurred_at"),
    *("run_id", "request_id", "attempt", "source__slug"),
)


def build_document(
    *,
    kind: Kind,
    pk: int,
    source: str | None,
    outcome: str | None,
    status: int | None,
    title: str,
    body: str,
    data: Any,
    occurred_at: datetime,
    weight: float | None,
) -> Document:
    """The document of a row. `occurred_at` is aware; `title` and `body` in any normal form."""
    title, body = to_nfc(title), to_nfc(body)
    title_words, body_words = fold_words(title), fold_words(body)
    return Document(
        id=name_document(kind, pk),
        kind=kind,
        source=source,
        outcome=outcome,
        status=status,
        title=title,
        body=body,
        data=data,
        at_us=to_microseconds(occurred_at.astimezone(UTC)),
        # Unique over both kinds, in the order of storing.
        tie=pk * 2 + (kind is Kind.ERROR),
        rank=rank_document(title_words=len(title_words), weight=weight),
        title_words=" ".join(title_words),
        body_words=" ".join(body_words),
        title_shelved=shelve(title_words),
        body_shelved=shelve(body_words),
        title_lengths=" ".join(dict.fromkeys(str(len(word)) for word in title_words)),
    )


# --- Elasticsearch ----------------------------------------------------------------------------

# The words of search.text, separated by spaces: no analyzer of the server decides anything. The
# similarity `boolean` makes a word worth its boost, whatever its frequency.
_WORDS = {"analyzer": "whitespace", "similarity": "boolean", "norms": False}


class SearchDocument(dsl.Document):  # type: ignore[misc]
    """The one mapping of records and errors in Elasticsearch.

    Kept in step by the outbox, not by signals (see docs/decisions/0060). The name of the index
    below is the alias that `search.engines` points to the index that answers.
    """

    kind = dsl.KeywordField()
    source = dsl.KeywordField()
    outcome = dsl.KeywordField()
    status = dsl.IntegerField()
    title = dsl.TextField(**_WORDS)
    body = dsl.TextField(**_WORDS)
    # The words once more, as typos are looked for.
    title_shelved = dsl.TextField(**_WORDS, index_options="docs")
    body_shelved = dsl.TextField(**_WORDS, index_options="docs")
    title_lengths = dsl.TextField(**_WORDS, index_options="docs")
    # The beginnings of the title's words, where a typo inside a prefix is looked for.
    title_prefixes = dsl.TextField(**_WORDS, index_options="docs")
    at_us = dsl.LongField()
    tie = dsl.LongField()
    # RANK_UNIT + rank: what the points of a hit are multiplied with.
    factor = dsl.ShortField(index=False)
    # `Document.shown()` as text: the server would round numbers, and refuse deep data.
    shown = dsl.KeywordField(index=False, doc_values=False)

    class Meta:
        dynamic = MetaField("strict")
        # Everything else is either in `shown` or made from it.
        source = MetaField(includes=["shown"])

    class Index:
        name = settings.ELASTICSEARCH_PREFIX
        settings = settings.ELASTICSEARCH_INDEX_SETTINGS

    @classmethod
    def generate_id(cls, row: Record | ErrorLog) -> str:
        return name_document(Kind.RECORD if isinstance(row, Record) else Kind.ERROR, row.pk)

    def get_queryset(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset()
        return rows.select_related("source")


@registry.register_document
class RecordDocument(SearchDocument):
    class Django:
        model = Record
        ignore_signals = True
        auto_refresh = False

    def prepare(self, row: Record) -> dict[str, Any]:
        return list_fields(describe_record(row, source=row.source.slug, data=row.data))


@registry.register_document
class ErrorDocument(SearchDocument):
    class Django:
        model = ErrorLog
        ignore_signals = True
        auto_refresh = False

    def prepare(self, row: ErrorLog) -> dict[str, Any]:
        return list_fields(describe_error(row, source=row.source.slug if row.source else None))


def read_mapping() -> dict[str, Any]:
    """The mapping of the index, as Elasticsearch is given it."""
    mapping: dict[str, Any] = SearchDocument._doc_type.mapping.to_dict()
    return mapping


def list_fields(document: Document) -> dict[str, Any]:
    """A document as the mapping has it. Raises ValueError when it cannot be written as JSON."""
    fields = {
        "kind": document.kind.value,
        "source": document.source,
        "outcome": document.outcome,
        "status": document.status,
        "title": document.title_words,
        "body": document.body_words,
        "title_shelved": document.title_shelved,
        "body_shelved": document.body_shelved,
        "title_lengths": document.title_lengths,
        "title_prefixes": " ".join(_list_prefixes(document.title_words.split())),
        "at_us": document.at_us,
        "tie": document.tie,
        "factor": RANK_UNIT + document.rank,
        "shown": document.shown().decode(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _list_prefixes(words: Iterable[str]) -> dict[str, None]:
    """All beginnings that a prefix with one typo in it can be near to, each once."""
    shortest, longest = MIN_PREFIX_TYPO_CHARS - 1, MAX_PREFIX_TYPO_CHARS + 1
    return dict.fromkeys(
        word[:length] for word in words for length in range(shortest, min(len(word), longest) + 1)
    )

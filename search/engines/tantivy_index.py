"""Where the embedded index lives, and how it is written.

Files: `<index dir>/v<version>-<layout>-<n>/` is an index, `<index dir>/current` names the one that
answers. Measured facts behind the oddities are in docs/decisions/0022 and 0078.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import tantivy

from search.documents import DOCUMENT_VERSION, Document
from search.engines.base import Applied, IndexMissing, IndexOutgrown
from search.errors import SearchUnavailable
from search.plan import BODY, FIELD_BOOSTS, LENGTHS, RANK_UNIT, SHELVED, TITLE

WRITER_HEAP_BYTES = 40_000_000
# Each time it is full a segment is written, and a typo is looked for in each segment's words:
# 235,000 cities in 2 segments are searched in half the time that 8 take.
REBUILD_HEAP_BYTES = 200_000_000
WRITER_WAIT_SECONDS = 5.0
_POINTER = "current"


def _build_schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", tokenizer_name="raw", index_option="basic")
    for name in ("kind", "source", "outcome"):
        builder.add_text_field(name, fast=True, tokenizer_name="raw", index_option="basic")
    for name in FIELD_BOOSTS:
        # Fed with the words of search.text, separated by spaces.
        builder.add_text_field(name, tokenizer_name="whitespace")
        builder.add_text_field(SHELVED[name], tokenizer_name="whitespace", index_option="basic")
    builder.add_text_field(LENGTHS, tokenizer_name="whitespace", index_option="basic")
    for name in ("status", "at_us", "tie"):
        builder.add_integer_field(name, indexed=True, fast=True)
    # tantivy multiplies a score by log2(2 + factor); see _store_factor.
    builder.add_float_field("factor", fast=True)
    builder.add_bytes_field("shown", stored=True)
    return builder.build()


SCHEMA = _build_schema()
# The schema object does not tell its fields; this stands for it. Change both together.
_LAYOUT = (
    "tantivy 2: id kind source outcome title body shelved lengths status at_us tie factor shown"
)


def name_layout() -> str:
    """How documents are built and stored, as part of a folder's name."""
    digest = hashlib.blake2s(f"{_LAYOUT}/{DOCUMENT_VERSION}".encode(), digest_size=5).hexdigest()
    return f"v{DOCUMENT_VERSION}-{digest}"


@contextmanager
def translated() -> Iterator[None]:
    """Turns what tantivy raises into SearchUnavailable.

    A panic in its Rust code arrives as `pyo3_runtime.PanicException`, which cannot be imported and
    derives from BaseException.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        raise SearchUnavailable(f"tantivy: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise SearchUnavailable(f"tantivy panicked: {error}") from error


# --- folders ----------------------------------------------------------------------------------


def find_current(directory: Path) -> Path:
    """The folder of the index that answers. Raises IndexMissing.

    One of another version counts as long as its schema is ours: it goes on answering, and taking
    changes, until a rebuild replaces it. One that this version cannot read does not.
    """
    try:
        folder = directory / (directory / _POINTER).read_text().strip()
    except FileNotFoundError:
        raise IndexMissing("There is no search index yet.") from None
    except OSError as error:
        raise SearchUnavailable(f"tantivy: {error}") from error
    if not (folder / "meta.json").exists():
        raise IndexMissing(f"The folder of the search index is gone: {folder.name}")
    if is_outdated(folder) and _read_schema(folder) != _read_own_schema():
        raise IndexMissing(f"This version cannot read the search index: {folder.name}")
    return folder


def is_outdated(folder: Path) -> bool:
    """Whether another version than this one built the index."""
    return not folder.name.startswith(f"{name_layout()}-")


def refuse_newer(folder: Path) -> None:
    """Raises IndexOutgrown for the index of a newer version: ours would spoil its documents."""
    version = re.match(r"v(\d+)-", folder.name)
    if version and int(version[1]) > DOCUMENT_VERSION:
        raise IndexOutgrown(f"A newer version keeps the search index: {folder.name}")


def remove_all_but_current(directory: Path) -> None:
    """Removes replaced indexes, and what a killed rebuild left behind. Open readers keep theirs."""
    with suppress(IndexMissing):
        current = find_current(directory)
        for folder in directory.iterdir():
            if folder.is_dir() and folder != current:
                shutil.rmtree(folder, ignore_errors=True)


def _read_schema(folder: Path) -> Any:
    with translated():
        return json.loads((folder / "meta.json").read_text())["schema"]


@cache
def _read_own_schema() -> Any:
    # tantivy shows a schema nowhere but in the files of an index.
    with tempfile.TemporaryDirectory() as folder:
        tantivy.Index(SCHEMA, path=folder)
        return _read_schema(Path(folder))


class FreshFolder:
    """An index that is filled beside the one that answers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / f"{name_layout()}-{time.time_ns()}"
        self._published = False
        with translated():
            directory.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
            tantivy.Index(SCHEMA, path=str(self.path))
        self._writer = FolderWriter(self.path, heap_bytes=REBUILD_HEAP_BYTES)

    def apply(self, *, upserts: Iterable[Document], deletes: Iterable[str] = ()) -> Applied:
        # Nobody reads it yet: a commit each would only cut it into small segments.
        return self._writer.write(upserts=upserts, deletes=deletes, commit=False)

    def commit(self) -> None:
        self._writer.write(upserts=(), deletes=())

    def publish(self) -> None:
        """Atomic: the pointer is replaced."""
        self.commit()
        self._writer.close()
        pointer = self._directory / _POINTER
        draft = pointer.with_suffix(".draft")
        with translated():
            draft.write_text(self.path.name)
            draft.replace(pointer)
        self._published = True

    def end(self) -> None:
        """Removes what does not answer: this index if it was not published, else the older ones."""
        with suppress(SearchUnavailable):
            self._writer.close()
        if self._published:
            remove_all_but_current(self._directory)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


# --- writing ----------------------------------------------------------------------------------


class FolderWriter:
    """Writes batches into one index; a batch is one commit.

    tantivy's writer is kept from batch to batch, because it joins segments in threads of its own:
    to wait for these after each batch would take seconds once the index is large. While it is kept,
    nobody else can write; its lock ends with the process.
    """

    def __init__(self, folder: Path, *, heap_bytes: int = WRITER_HEAP_BYTES) -> None:
        self.folder = folder
        self._heap_bytes = heap_bytes
        self._lock = threading.Lock()
        self._kept: tantivy.IndexWriter | None = None

    def write(
        self, *, upserts: Iterable[Document], deletes: Iterable[str], commit: bool = True
    ) -> Applied:
        with self._lock:
            with translated():
                writer = self._kept or _open_writer(
                    tantivy.Index.open(str(self.folder)), heap_bytes=self._heap_bytes
                )
            self._kept = None
            try:
                rejected = _fill(writer, upserts=upserts, deletes=deletes)
                if commit:
                    with translated():
                        writer.commit()
            except BaseException:
                # Without rollback the documents so far would go with the next commit.
                with suppress(Exception):
                    writer.rollback()
                    writer.wait_merging_threads()
                raise
            self._kept = writer
        return Applied(rejected=rejected)

    def close(self) -> None:
        """Lets others write; waits until its segments are joined."""
        with self._lock:
            writer, self._kept = self._kept, None
            if writer is not None:
                with translated():
                    writer.wait_merging_threads()


def _fill(
    writer: tantivy.IndexWriter, *, upserts: Iterable[Document], deletes: Iterable[str]
) -> dict[str, str]:
    rejected = {}
    for document in upserts:
        try:
            stored = _store(document)
        except Exception as error:
            # This document alone cannot be written; what went before it stays as it is.
            rejected[document.id] = str(error) or type(error).__name__
            continue
        with translated():
            writer.delete_documents_by_term("id", document.id)
            writer.add_document(stored)
    for document_id in deletes:
        with translated():
            writer.delete_documents_by_term("id", document_id)
    return rejected


def _open_writer(index: tantivy.Index, *, heap_bytes: int) -> tantivy.IndexWriter:
    gives_up_at = time.monotonic() + WRITER_WAIT_SECONDS
    while True:
        try:
            return index.writer(heap_bytes, 1)
        except ValueError as error:
            if "LockBusy" not in str(error) or time.monotonic() > gives_up_at:
                raise
            time.sleep(0.01)


def _store(document: Document) -> tantivy.Document:
    fields: dict[str, Any] = {
        "id": document.id,
        "kind": document.kind.value,
        "title": document.title_words,
        "body": document.body_words,
        SHELVED[TITLE]: document.title_shelved,
        SHELVED[BODY]: document.body_shelved,
        LENGTHS: document.title_lengths,
        "at_us": document.at_us,
        "tie": document.tie,
        "factor": _store_factor(document.rank),
        "shown": document.shown(),
    }
    for name, value in (
        ("source", document.source),
        ("outcome", document.outcome),
        ("status", document.status),
    ):
        if value is not None:
            fields[name] = value
    return tantivy.Document.from_dict(fields, SCHEMA)


def _store_factor(rank: int) -> float:
    """The value for which tantivy's log2(2 + value) is the static factor 1 + rank / RANK_UNIT."""
    return float(2 ** (1 + rank / RANK_UNIT) - 2)


class KeptWriter:
    """The writer of the index that answers, in this process; another folder gets another one."""

    def __init__(self) -> None:
        self._kept: tuple[int, FolderWriter] | None = None

    def choose(self, folder: Path) -> FolderWriter:
        if self._kept is not None:
            pid, writer = self._kept
            if pid == os.getpid() and writer.folder == folder:
                return writer
            self.close()
        writer = FolderWriter(folder)
        self._kept = (os.getpid(), writer)
        return writer

    def close(self) -> None:
        kept, self._kept = self._kept, None
        # After a fork the writer is the parent's.
        if kept is not None and kept[0] == os.getpid():
            with suppress(SearchUnavailable):
                kept[1].close()

"""Content codings (RFC 9110 §8.4): the bytes that travel → the bytes that were meant.

Decoded here, not by aiohttp, for three reasons: a body that is not what its header says is another
thing than a transfer that broke off; several codings may lie on each other; and a small body that
unpacks to a huge one must stop after the first piece too many, whatever its coding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli  # type: ignore[import-untyped]

from ingest.secrets import KEPT_CHARACTERS

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    from backports import zstd

# zstd is of the standard library from Python 3.14 on; others take it from here.
__all__ = ["ACCEPTED", "BodyDecoder", "Undecodable", "zstd"]

PIECE_BYTES = 65_536
ACCEPTED = "gzip, deflate, br, zstd"
MAX_CODINGS = 4
# Each member costs a decoder: a body of nothing but empty ones would keep the loop busy.
MAX_MEMBERS = 1_000
# RFC 9659: over HTTP, a zstd window has at most 8 MB. More would be memory for the asking.
_ZSTD_WINDOW_LOG = 23
# What servers say that mean no coding at all.
_NO_CODING = frozenset({"", "identity", "none", "utf-8"})


class Undecodable(ValueError):
    """The body is not in the coding that its header names, or nobody knows that coding."""


class Coding(Protocol):
    """One layer. `pieces` gives what the data unpacks to, about PIECE_BYTES at a time."""

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    def is_whole(self) -> bool:
        """Whether the coded stream has come to its end."""
        ...


class _Member(Protocol):
    """What zlib's and zstd's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Members:
    """gzip and zstd: one coded stream after the other. What follows them and is none is padding."""

    def __init__(self, start: Callable[[], _Member], *, magic: tuple[bytes, ...]) -> None:
        self._start, self._magic = start, magic
        self._member = start()
        self._count = 1
        self._rest = b""
        self._is_over = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while not self._is_over:
            if self._member.eof:
                data = self._rest = self._rest + data
                if not data or any(each.startswith(data) for each in self._magic):
                    return  # nothing more yet, or too little to tell
                if not data.startswith(self._magic):
                    self._is_over = True
                    return
                self._rest = b""
                self._begin_next()
            piece = self._member.decompress(data, PIECE_BYTES)
            data = getattr(self._member, "unconsumed_tail", b"")
            if piece:
                yield piece
            if self._member.eof:
                self._rest, data = self._member.unused_data, b""
            elif not data and len(piece) < PIECE_BYTES:
                return

    def _begin_next(self) -> None:
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise Undecodable(f"more than {MAX_MEMBERS:,} coded streams in one body")
        self._member = self._start()

    def is_whole(self) -> bool:
        return self._member.eof


class _Deflate:
    """zlib data as the RFC says, or bare deflate data as some servers send."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()
        self._is_first = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._is_first and data:
            self._is_first = False
            # CM = 8 in the low bits of the first byte (RFC 1950 §2.2).
            if data[0] & 0x0F != 8:
                self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
        while not self._inner.eof:
            piece = self._inner.decompress(data, PIECE_BYTES)
            data = self._inner.unconsumed_tail
            if piece:
                yield piece
            if not data and len(piece) < PIECE_BYTES:
                return

    def is_whole(self) -> bool:
        return self._inner.eof


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._inner.is_finished():
            return
        piece = self._inner.process(data, output_buffer_limit=PIECE_BYTES)
        # It may say that it wants more data while it still has some to give.
        while piece:
            yield piece
            if self._inner.is_finished():
                return
            piece = self._inner.process(b"", output_buffer_limit=PIECE_BYTES)

    def is_whole(self) -> bool:
        return bool(self._inner.is_finished())


def _gzip() -> Coding:
    return _Members(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), magic=(b"\x1f\x8b",))


def _zstd() -> Coding:
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    skippable = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
    return _Members(
        lambda: zstd.ZstdDecompressor(options=options), magic=(b"\x28\xb5\x2f\xfd", *skippable)
    )


_CODINGS: dict[str, Callable[[], Coding]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _zstd,
}


# Of headers and checksums, beyond the limit of a body.
SLACK_BYTES = 1_024


class BodyDecoder:
    """Collects one body. Feed it until it is full; `text` for a whole body by `finish`.

    The limit counts decoded bytes. Coded ones that unpack to nothing, on the wire or between two
    codings, have the same limit: they are worth as little, and a few bytes can make any number.
    """

    def __init__(self, content_encoding: str | None, *, limit: int) -> None:
        self._limit = limit
        self._layers: list[Coding] = []
        self._pieces: list[bytes] = []
        self._size = self._travelled = 0
        self._passed: list[int] = []
        self.is_full = False
        self.fault = self._name = ""
        if content_encoding:
            self._open_layers(content_encoding)

    def _open_layers(self, content_encoding: str) -> None:
        said = [name.strip() for name in content_encoding.split(",")]
        wanted = [name.lower() for name in said if name.lower() not in _NO_CODING]
        self._name = ", ".join(wanted)
        if unknown := [name for name in said if name.lower() not in {*_NO_CODING, *_CODINGS}]:
            # As it came, and whole: a secret in it is not recognised otherwise.
            self.fault = f"Content-Encoding {unknown[0]!r} is not known"[:KEPT_CHARACTERS]
        elif len(wanted) > MAX_CODINGS:
            self.fault = f"more than {MAX_CODINGS} content codings on each other"
        else:
            # Listed in the order in which they were applied (RFC 9110 §8.4).
            self._layers = [_CODINGS[name]() for name in reversed(wanted)]
            self._passed = [0] * len(wanted)

    def feed(self, data: bytes) -> None:
        self._travelled += len(data)
        if self.fault:
            self._pieces.append(data)  # in a coding that nobody knows: evidence at most
            return
        try:
            self._unpack(data, 0)
        except (zlib.error, zstd.ZstdError, brotli.error, Undecodable) as error:
            # What was read before stays as evidence.
            self.fault = f"the body is not {self._name}: {error}"
        if self._travelled > self._limit + SLACK_BYTES:
            self.is_full = True

    def _unpack(self, data: bytes, depth: int) -> None:
        if depth == len(self._layers):
            self._pieces.append(data)
            self._size += len(data)
            self.is_full = self._size > self._limit
            return
        for piece in self._layers[depth].pieces(data):
            self._passed[depth] += len(piece)
            self._unpack(piece, depth + 1)
            if self._passed[depth] > self._limit + SLACK_BYTES:
                self.is_full = True
            if self.is_full:
                return

    def finish(self) -> bytes:
        """What was decoded, up to the limit. Sets `fault` where the coded stream has no end."""
        if not self._travelled:
            self.fault = ""  # where nothing is, no coding is wrong
        elif not (self.fault or self.is_full):
            for layer in self._layers:
                if not layer.is_whole():
                    self.fault = f"the {self._name} data ends too early"
        return b"".join(self._pieces)[: self._limit]

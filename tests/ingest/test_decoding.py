"""Content codings, alone and from a real server."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import brotli  # type: ignore[import-untyped]
import pytest
from aiohttp import web

from ingest.fetch.decoding import BodyDecoder, zstd
from ingest.outcomes import Outcome
from tests.ingest.test_transport import configure, send
from tests.ingest.upstream import Handler, scripted_upstream

TEXT = random.Random(1).randbytes(70_000) + b"x" * 200_000


def deflate_bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@cache
def pack_zstd_with_a_large_window() -> bytes:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    packed: bytes = packer.compress(b"[]") + packer.flush()
    return packed


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": deflate_bare,
    "br": lambda data: bytes(brotli.compress(data, quality=3)),
    "zstd": zstd.compress,
    "gzip, br": lambda data: bytes(brotli.compress(gzip.compress(data), quality=3)),
    "identity": bytes,
    "": bytes,
}


def decode(
    coding: str, body: bytes, *, limit: int = 1_000_000, step: int = 16_384
) -> tuple[bytes, bool, str]:
    decoder = BodyDecoder(coding, limit=limit)
    for start in range(0, len(body), step):
        decoder.feed(body[start : start + step])
        if decoder.is_full or decoder.fault:
            break
    return decoder.finish(), decoder.is_full, decoder.fault


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("step", [7, 16_384])
def test_a_whole_body_is_unpacked_however_it_is_cut(coding: str, step: int):
    text = TEXT[:2_000] if step == 7 else TEXT
    assert decode(coding, CODINGS[coding](text), step=step) == (text, False, "")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_streams_on_end_are_one_body(coding: str):
    pack = CODINGS[coding]
    body = pack(TEXT[:1_000]) + pack(b"") + pack(TEXT[1_000:])
    for step in (1, 100_000):
        assert decode(coding, body[:3_000] if step == 1 else body, step=step)[0][:900] == TEXT[:900]
    assert decode(coding, body) == (TEXT, False, "")
    assert decode(coding, body + b"\0" * 600) == (TEXT, False, "")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br"])
def test_a_body_without_its_end_or_in_another_coding_is_named(coding: str):
    body = CODINGS[coding](TEXT)
    assert decode(coding, body[:-1])[2] == f"the {coding} data ends too early"
    assert f"{coding}" in decode(coding, b"[1, 2, 3]")[2]
    assert decode(coding, b"") == (b"", False, "")


def test_a_coding_that_nobody_knows_is_named():
    assert decode("snappy", b"[]") == (b"[]", False, "Content-Encoding 'snappy' is not known")
    assert "more than 4" in decode("gzip, gzip, gzip, gzip, gzip", b"[]")[2]
    assert decode("snappy", b"") == (b"", False, "")


@cache
def make_bomb(coding: str) -> bytes:
    return CODINGS[coding](bytes(50_000_000))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br"])
def test_a_bomb_stops_at_the_limit_with_flat_memory(coding: str):
    bomb = make_bomb(coding)
    tracemalloc.start()
    body, is_full, fault = decode(coding, bomb, limit=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(body), is_full, fault) == (100_000, True, "")
    assert peak < 1_000_000


def test_data_that_unpacks_to_nothing_ends_too():
    assert "more than 1,000" in decode("gzip", gzip.compress(b"") * 5_000)[2]
    skippable = b"\x50\x2a\x4d\x18" + (60_000).to_bytes(4, "little") + bytes(60_000)
    assert decode("zstd", skippable * 20, limit=100_000)[1]


def test_what_unpacks_between_two_codings_and_to_nothing_has_the_limit_of_a_body():
    # The innermost header announces a file name, and the name never ends.
    body = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 50_000_000
    for _ in range(2):
        body = gzip.compress(body)
    assert decode("gzip, gzip, gzip", body, limit=100_000)[1]
    packed = gzip.compress(gzip.compress(b"[1]"))
    assert decode("gzip, gzip", packed, limit=100_000) == (b"[1]", False, "")


def test_a_zstd_window_beyond_the_rfc_is_no_memory_for_the_asking():
    assert "too much memory" in decode("zstd", pack_zstd_with_a_large_window())[2]


def _answer(coding: str, body: bytes, status: int = 200) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "gzip, deflate, br, zstd"
        return web.Response(body=body, status=status, headers={"Content-Encoding": coding})

    return answer


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br"])
async def test_a_packed_answer_is_delivered(coding: str):
    body = CODINGS[coding](b'[{"id": 1, "text": "\xc5\x9fehir"}]')
    with scripted_upstream(_answer(coding, body)) as up:
        _, verdict = await send(configure(up.url))
    assert verdict.outcome == Outcome.DELIVERED


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_a_bomb_from_a_server_is_malformed(coding: str):
    with scripted_upstream(_answer(coding, make_bomb(coding))) as up:
        reply, verdict = await send(configure(up.url))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "too_large")
    assert len(reply.body) == 100_000


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b'[{"id": 1}]'),
        ("gzip", gzip.compress(b'[{"id": 1}]', mtime=0)[:-9]),
        ("br", b'[{"id": 1}]'),
        ("zstd", zstd.compress(b'[{"id": 1}]')[:-2]),
        ("snappy", b'[{"id": 1}]'),
    ],
)
async def test_a_body_that_is_not_packed_as_it_says_is_malformed_and_not_a_broken_transfer(
    coding: str, body: bytes
):
    with scripted_upstream(_answer(coding, body)) as up:
        _, verdict = await send(configure(up.url))
    assert (verdict.outcome, verdict.error) == (Outcome.MALFORMED, "undecodable")
    assert verdict.evidence is not None
    assert coding in verdict.evidence["reason"]
    with scripted_upstream(_answer(coding, body, status=404)) as up:
        _, verdict = await send(configure(up.url))
    assert verdict.outcome == Outcome.MISSING

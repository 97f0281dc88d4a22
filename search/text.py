"""The one normaliser: what a word is, and when two spellings are the same word.

Both engines index the words that this module produces, separated by spaces, so that no analyzer of
theirs decides anything. Offsets are Unicode code points into the NFC form, which is also the form
that answers return.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

MAX_WORD_CHARS = 64

# Typed for one another on every keyboard: ' ` ´ ʹ ʻ ʼ ʽ ʾ ʿ ‘ ’ ‛ ′ ＇
APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u2018\u2019\u201b\u2032\uff07"
# Invisible inside a word: soft hyphen, zero width (non-)joiner and space, word joiner, direction
# marks, byte order mark, Arabic tatweel.
INVISIBLE = "\u00ad\u061c\u200b-\u200f\u2060\ufeff\u0640"
# Written without spaces, so that each character is a word of its own (as Unicode's UAX 29 does).
IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"

# Articles that melt into the next word: l'Aquila is found by "aquila". Everything else joins:
# Oʻzbekiston, O'Brien, don't.
ELISIONS = frozenset(
    ["l", "d", "j", "m", "n", "s", "t", "c", "qu", "dell", "all", "nell", "dall", "sull", "un"]
)

# Letters that have no decomposition but are read as these.
_READ_AS: dict[str, str | None] = {
    **dict(zip("ıøłđðħŧŋəɵƶĸ", "iolddhtneozk", strict=True)),
    **{"þ": "th", "æ": "ae", "œ": "oe"},
    # Arabic and Persian forms of one letter; tatweel only stretches a word.
    **{"ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ٱ": "ا", "\u0640": None},
    **dict.fromkeys(APOSTROPHES),
}
SPELLINGS = {ord(letter): read_as for letter, read_as in _READ_AS.items()}

_SURROGATES = re.compile("[\ud800-\udfff]")
_VIRAMA_CLASS = 9


class Token(NamedTuple):
    """A folded word and where it stands: `text[start:end]`."""

    word: str
    start: int
    end: int


def _mark_ranges() -> str:
    """The combining marks (categories Mn, Mc, Me) as the inside of a character class.

    Python's `\\w` leaves them out, which would cut Hindi, Thai and pointed Arabic words to pieces.
    """
    ranges: list[list[int]] = []
    for code in range(0x300, 0x1F000):
        if unicodedata.category(chr(code))[0] != "M":
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "\U000e0100-\U000e01ef"


_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:['`][A-Za-z0-9]+)*")
_ASCII_RUN = re.compile(r"[a-z0-9]+")
_ASCII_JOINT = re.compile("['`]")
_ANY_WORD = re.compile(
    rf"[^\W_](?:[^\W_]|[{_mark_ranges()}{INVISIBLE}]|[{APOSTROPHES}](?=[^\W_]))*|[{EMOJI}]"
)
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_PIECE = re.compile(f"[{IDEOGRAPHS}]|[^{IDEOGRAPHS}]+")
_ARTICLE = re.compile(f"([^{APOSTROPHES}]+)[{APOSTROPHES}](?=.)")


def to_nfc(text: str) -> str:
    """`text` as it is stored, shown and counted: NFC, lone surrogates replaced."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _SURROGATES.sub("\ufffd", text))


def tokenize(text: str) -> Iterator[Token]:
    """The words of `text`, which must be NFC, in order."""
    pattern = _ASCII_WORD if text.isascii() else _ANY_WORD
    for match in pattern.finditer(text):
        for raw, start in _split(match.group(), match.start()):
            word = fold(raw)
            if word:
                yield Token(word, start, start + len(raw))


def fold_words(text: str) -> list[str]:
    """The folded words of `text` in any normal form: those of `tokenize`, a few times as fast."""
    if text.isascii() and not _ASCII_JOINT.search(text):
        return [word[:MAX_WORD_CHARS] for word in _ASCII_RUN.findall(text.lower())]
    text = to_nfc(text)
    pattern = _ASCII_WORD if text.isascii() else _ANY_WORD
    return [word for raw in pattern.findall(text) for word in _fold_pieces(raw)]


@lru_cache(maxsize=100_000)
def _fold_pieces(raw: str) -> tuple[str, ...]:
    return tuple(word for piece, _ in _split(raw, 0) if (word := fold(piece)))


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """`word` without accents, case, apostrophes and compatibility forms; ≤ 64 characters."""
    if word.isascii():
        folded = word.lower().replace("'", "").replace("`", "")
    else:
        bare = _decompose(word).translate(_BARE).casefold().translate(SPELLINGS)
        folded = unicodedata.normalize("NFC", _decompose(bare).translate(_KEPT))
    return sys.intern(folded[:MAX_WORD_CHARS])


def _split(raw: str, start: int) -> Iterator[tuple[str, int]]:
    article = _ARTICLE.match(raw)
    if article and fold(article.group(1)) in ELISIONS:
        yield article.group(1), start
        yield from _split(raw[article.end() :], start + article.end())
    elif raw.isascii() or not _IDEOGRAPH.search(raw):
        yield raw, start
    else:
        for piece in _PIECE.finditer(raw):
            yield piece.group(), start + piece.start()


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


class _Table(dict[int, str | None]):
    """What `str.translate` looks up, by a function of the character that is asked once for each."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, code: int) -> str | None:
        value = self[code] = self._read(chr(code))
        return value


def _bare(char: str) -> str | None:
    """`char`, but None for a mark that decorates its letter (é) rather than being a letter (Hindi
    vowels).

    Canonical combining classes: 230 and around are the accents of Latin, Greek and Cyrillic,
    10–35 the points of Hebrew and Arabic, 7 the nukta; Indic and Thai vowel signs have class 0 and
    the virama 9.
    """
    return char if unicodedata.combining(char) in (0, _VIRAMA_CLASS) else None


def _keep(char: str) -> str | None:
    """What a word keeps of a bare character: letters, vowel signs, emoji, and digits as ASCII."""
    if _bare(char) is None:
        return None
    if not (char.isalnum() or unicodedata.category(char) in ("Mn", "Mc", "So", "Sk")):
        return None
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)


_BARE, _KEPT = _Table(_bare), _Table(_keep)

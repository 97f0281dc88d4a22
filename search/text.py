"""The one normaliser: what a word is, and when two spellings are the same word.

Both engines index the words that this module produces, separated by spaces, so that no analyzer of
theirs decides anything. Offsets are Unicode code points into the NFC form, which is also the form
that answers return.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

MAX_WORD_CHARS = 64

# Typed for one another on every keyboard: ' ` ´ ʹ ʻ ʼ ʽ ʾ ʿ ‘ ’ ‛ ′ ＇
APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u2018\u2019\u201b\u2032\uff07"
# Invisible inside a word: soft hyphen, zero width (non-)joiner and space, word joiner, direction
# marks, byte order mark, Arabic tatweel.
INVISIBLE = "\u00ad\u061c\u200b-\u200f\u2060\ufeff\u0640"
# Written without spaces, so that each character is a word of its own (as Unicode's UAX 29 does),
# with the marks behind it.
IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u3098\u309b-\u309f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"

# Articles that melt into the next word: l'Aquila is found by "aquila". Everything else joins:
# Oʻzbekiston, O'Brien, don't.
ELISIONS = frozenset(
    ["l", "d", "j", "m", "n", "s", "t", "c", "qu", "dell", "all", "nell", "dall", "sull", "un"]
)

# Where the signs are that stand for several characters.
_SIGN_BLOCKS = (
    *(range(0xBC, 0xBF), range(0x2100, 0x2190), range(0x2460, 0x2500), range(0x2E80, 0x2FE0)),
    range(0x3190, 0x3400),
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
# The canonical combining classes of marks that only decorate a letter, and that people leave out
# when they type: overlays (1), reading aids (6), the nukta (7), the points of Hebrew, Arabic and
# Syriac (10-36), and the accents above and below (202-240). All others spell the word, as letters
# do: the virama (9) and the vowel signs of Indic scripts (0, 84, 91), of Thai and Lao (103, 118)
# and of Tibetan (129-132); the voicing of kana (8), without which パパ would be ハハ; the tones of
# Thai and Lao (107, 122), which those who type these languages do not leave out.
_DECORATING_CLASSES = frozenset([1, 6, 7, *range(10, 37), *range(202, 241)])
# Spell the word although their class decorates: the tone of Burmese, the vowels i and u of
# Buginese, the nasals and the visarga of Chakma.
_SPELLING_MARKS = frozenset("\u1037\u1a17\u1a18\U00011100\U00011101\U00011102")
# Choose among glyphs of the same character, or join some without being seen.
_SELECTORS = frozenset(
    map(chr, [0x34F, 0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10)])
) | frozenset(map(chr, range(0xE0100, 0xE01F0)))


class Tokens(NamedTuple):
    """The folded words of a text, and the half-open ranges where they stand in it."""

    words: list[str]
    spans: list[tuple[int, int]]


def _mark_ranges() -> str:
    """The combining marks (categories Mn, Mc, Me) as the inside of a character class.

    Python's `\\w` leaves them out, which would cut Hindi, Thai and pointed Arabic words to pieces.
    """
    codes = range(0x300, 0x1F000)
    marks = _join_ranges(code for code in codes if unicodedata.category(chr(code))[0] == "M")
    return marks + "\U000e0100-\U000e01ef"


def _join_ranges(codes: Iterable[int]) -> str:
    """`codes`, which ascend, as the inside of a character class."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _list_signs() -> dict[str, str]:
    """The signs that stand for something typed with several characters, and what that is.

    Units (㎏, ㎡), fractions (½) and what is enclosed or squared (⒜, ㈱, Ⓐ, ㋀). A fraction is no
    part of the number before it: 1½ is 1 1⁄2. The degree sign of ℃ is no word.
    """
    signs = {}
    for sign in map(chr, chain.from_iterable(_SIGN_BLOCKS)):
        typed = unicodedata.normalize("NFKC", sign)
        if typed != sign and _is_sign(sign, typed):
            signs[sign] = f" {typed}" if "\u2044" in typed else typed.replace("°", "")
    return signs


def _is_sign(char: str, typed: str) -> bool:
    # Raised signs (™) and № stand beside a name or a number, and are no part of what is looked for.
    if char == "№" or unicodedata.decomposition(char).startswith("<super>"):
        return False
    if unicodedata.category(char) == "So":
        return any(map(str.isalnum, typed))
    return unicodedata.category(char) == "No" and not typed.isdecimal()


_MARKS = _mark_ranges()
_SIGNS = _list_signs()
_SIGN_CLASS = _join_ranges(map(ord, _SIGNS))
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:['`][A-Za-z0-9]+)*")
_ASCII_RUN = re.compile(r"[a-z0-9]+")
_ASCII_JOINT = re.compile("['`]")
# Of a text without underscores: each class that is not \w alone would cost as much again.
_ANY_WORD = re.compile(rf"\w+(?:(?:[{_MARKS}{INVISIBLE}]|[{APOSTROPHES}](?=\w))\w*)*|[{EMOJI}]")
# The same for texts with signs in them, which are few.
_SIGNED_WORD = re.compile(
    rf"[\w{_SIGN_CLASS}]\w*"
    rf"(?:(?:[{_MARKS}{INVISIBLE}{_SIGN_CLASS}]|[{APOSTROPHES}](?=[\w{_SIGN_CLASS}]))\w*)*|[{EMOJI}]"
)
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_PIECE = re.compile(f"[{IDEOGRAPHS}][{_MARKS}]*|[^{IDEOGRAPHS}]+")
_ARTICLE = re.compile(f"([^{APOSTROPHES}]+)[{APOSTROPHES}](?=.)")
# Few ranges, which are searched for much faster than the signs themselves.
_PERHAPS_SIGN = re.compile(
    "[" + "".join(f"{chr(block[0])}-{chr(block[-1])}" for block in _SIGN_BLOCKS) + "]"
)
_DIVISIBLE = re.compile(f"[{APOSTROPHES}{IDEOGRAPHS}]")
# A character that no other one decomposes to.
_BETWEEN = "\n"


def to_nfc(text: str) -> str:
    """`text` as it is stored, shown and counted: NFC, lone surrogates replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _SURROGATES.sub("\ufffd", text)
    return unicodedata.normalize("NFC", text)


def tokenize(text: str, *, limit: int | None = None) -> Tokens:
    """The words of `text`, which must be NFC, in order; at most `limit` of them, or fewer, as what
    folds to nothing counts too."""
    pattern = _choose_pattern(text)
    matches = list(islice(pattern.finditer(text.replace("_", " ")), limit))
    typed = [match.group() for match in matches]
    spans = [match.span() for match in matches]
    joined = _BETWEEN.join(typed)
    if pattern is _SIGNED_WORD or _DIVISIBLE.search(joined):
        pieces: list[tuple[str, int, int]] = []
        for raw, (start, end) in zip(typed, spans, strict=True):
            if pattern is _SIGNED_WORD:
                pieces += _split_typed(raw, start)
            elif _DIVISIBLE.search(raw):
                pieces += _split(raw, start)
            else:
                pieces.append((raw, start, end))
        spans = [(start, end) for _, start, end in pieces]
        joined = _BETWEEN.join([raw for raw, _, _ in pieces])
    words = _fold_all(joined).split(_BETWEEN)
    if not all(words):
        kept = [index for index, word in enumerate(words) if word]
        words, spans = [words[index] for index in kept], [spans[index] for index in kept]
    return Tokens(_cut(words)[:limit], spans[:limit])


def _choose_pattern(text: str) -> re.Pattern[str]:
    if text.isascii():
        return _ASCII_WORD
    return _SIGNED_WORD if _PERHAPS_SIGN.search(text) else _ANY_WORD


def fold_words(text: str) -> list[str]:
    """The folded words of `text` in any normal form: those of `tokenize`, many times as fast."""
    if text.isascii() and not _ASCII_JOINT.search(text):
        return _cut(_ASCII_RUN.findall(text.lower()))
    text = to_nfc(text).replace("_", " ")
    if _PERHAPS_SIGN.search(text):
        text = "".join([_SIGNS.get(char, char) for char in text])
    words: list[str] = (_ASCII_WORD if text.isascii() else _ANY_WORD).findall(text)
    if _DIVISIBLE.search(text):
        pieces: list[str] = []
        for word in words:
            if _DIVISIBLE.search(word):
                pieces += [piece for piece, _, _ in _split(word, 0)]
            else:
                pieces.append(word)
        words = pieces
    return _cut(list(filter(None, _fold_all(_BETWEEN.join(words)).split(_BETWEEN))))


def _cut(words: list[str]) -> list[str]:
    if max(map(len, words), default=0) <= MAX_WORD_CHARS:
        return words
    return [word[:MAX_WORD_CHARS] for word in words]


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """`word` without accents, case, apostrophes and compatibility forms; ≤ 64 characters."""
    return sys.intern(_fold_all(word)[:MAX_WORD_CHARS])


def _fold_all(words: str) -> str:
    """Words joined by `_BETWEEN`, folded in one go: a word by itself costs ten times as much."""
    if words.isascii():
        return words.lower().replace("'", "").replace("`", "")
    return unicodedata.normalize("NFC", _decompose(words).translate(_FOLDED))


def _split(raw: str, start: int) -> Iterator[tuple[str, int, int]]:
    article = _ARTICLE.match(raw)
    if article and fold(article.group(1)) in ELISIONS:
        yield article.group(1), start, start + article.end(1)
        yield from _split(raw[article.end() :], start + article.end())
    elif raw.isascii() or not _IDEOGRAPH.search(raw):
        yield raw, start, start + len(raw)
    else:
        for piece in _PIECE.finditer(raw):
            yield piece.group(), start + piece.start(), start + piece.end()


def _split_typed(raw: str, start: int) -> Iterator[tuple[str, int, int]]:
    """As if the signs in `raw` had been typed; the words of one sign stand at the same place."""
    pieces = [_SIGNS.get(char, char) for char in raw]
    origins = [start + index for index, piece in enumerate(pieces) for _ in piece]
    for match in _ANY_WORD.finditer("".join(pieces)):
        for word, first, end in _split(match.group(), match.start()):
            yield word, origins[first], origins[end - 1] + 1


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


class _Folded(dict[int, str | None]):
    """What `str.translate` makes of a decomposed character; it is asked once for each."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        folded = char if char == _BETWEEN else _fold_char(char)
        self[code] = folded or None
        return self[code]


def _fold_char(char: str) -> str:
    if _is_decoration(char):
        return ""
    spelled = _decompose(char.casefold().translate(SPELLINGS))
    return "".join(_read_digit(each) for each in spelled if _is_kept(each))


def _is_decoration(char: str) -> bool:
    """Whether a mark decorates its letter (é) rather than being a letter (Hindi vowels)."""
    if char in _SELECTORS:
        return True
    return unicodedata.combining(char) in _DECORATING_CLASSES and char not in _SPELLING_MARKS


def _is_kept(char: str) -> bool:
    """Letters, digits, vowel signs and emoji."""
    is_sign = unicodedata.category(char) in ("Mn", "Mc", "So", "Sk")
    return (char.isalnum() or is_sign) and not _is_decoration(char)


def _read_digit(char: str) -> str:
    """A decimal digit of any script as ASCII."""
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)


_FOLDED = _Folded()

"""Where words stand in the index to be found by typos: with those of the same script.

Looking for a misspelled word means walking through all words of the index, as far as they could
still be near enough. Words of other scripts are never near, yet at 235,000 cities with their names
in all languages they cost the embedded engine two thirds of that walk. So the words are indexed
once more, each behind the mark of its script.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable
from functools import lru_cache

# A mark is one character, repeated more often than there may be typos: so words of another shelf
# are always too far.
MARK_CHARS = 3
_FIRST_MARK = 0xF0000  # a private use area of Unicode, which no folded word contains
_MOST_SCRIPTS = 60_000
_NO_SCRIPT = _MOST_SCRIPTS


@lru_cache(maxsize=100_000)
def find_shelf(word: str) -> str:
    """The mark of the words in the script of `word`."""
    return chr(_FIRST_MARK + _find_script(word)) * MARK_CHARS


def shelve(words: Iterable[str]) -> str:
    """`words`, each once and behind its mark, as both engines index them."""
    return " ".join(
        [(_SHELF_BEHIND[word[0]] or find_shelf(word)) + word for word in dict.fromkeys(words)]
    )


def _find_script(word: str) -> int:
    """That of the first letter."""
    if word.isascii():
        return _LATIN if any(map(str.isalpha, word)) else _NO_SCRIPT
    return next((_number_script(char) for char in word if char.isalpha()), _NO_SCRIPT)


@lru_cache(maxsize=10_000)
def _number_script(letter: str) -> int:
    """A number for the first word of the letter's name, such as CYRILLIC."""
    script = unicodedata.name(letter, "?").partition(" ")[0]
    return zlib.crc32(script.encode()) % _MOST_SCRIPTS


class _Shelves(dict[str, str]):
    """The mark of words that begin with a letter, by that letter; "" for other characters."""

    def __missing__(self, first: str) -> str:
        mark = self[first] = find_shelf(first) if first.isalpha() else ""
        return mark


_LATIN = _number_script("a")
_SHELF_BEHIND = _Shelves()

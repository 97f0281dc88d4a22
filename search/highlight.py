"""Where a hit was hit: the plan as a predicate over the words of a text.

The same for both engines, in the original spelling, also for hits by typo. Ranges are half-open
and count Unicode code points of the string they belong to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice

from search.distance import is_within, is_within_prefix
from search.plan import BODY, TITLE, Clause, Plan, Tier
from search.shelves import find_shelf
from search.text import Token, tokenize

PASSAGE_CHARS = 240
_LEAD_CHARS = 40
# A passage is looked for in this much of a body; texts of megabytes would cost seconds.
MAX_SCANNED_WORDS = 20_000

Range = tuple[int, int]


def highlight_title(title: str, plan: Plan) -> list[Range]:
    """The ranges of `title` (NFC) that the plan hits."""
    return find_ranges(list(tokenize(title)), plan, field=TITLE)


def cut_passage(body: str, plan: Plan) -> tuple[str, list[Range]]:
    """A passage of `body` (NFC), ≤ 240 characters around its best hit, and the hits within it."""
    tokens = list(islice(tokenize(body), MAX_SCANNED_WORDS)) if not plan.is_unscored else []
    ranges = find_ranges(tokens, plan, field=BODY)
    start = _choose_start(body, ranges)
    passage = body[start : start + PASSAGE_CHARS]
    inside = [
        (first - start, last - start)
        for first, last in ranges
        if first >= start and last <= start + len(passage)
    ]
    return passage, inside


def find_ranges(tokens: Sequence[Token], plan: Plan, *, field: str) -> list[Range]:
    """The ranges of those `tokens` that a word or phrase of the plan hits in `field`."""
    clauses = [clause for word in plan.words for clause in word if clause.field == field]
    hit = {
        index
        for index, token in enumerate(tokens)
        if any(matches(clause, token.word) for clause in clauses)
    }
    for phrase in plan.phrases:
        hit.update(_find_phrase(tokens, phrase))
    return [(tokens[index].start, tokens[index].end) for index in sorted(hit)]


def matches(clause: Clause, word: str) -> bool:
    """Whether a word of a document meets `clause`."""
    if clause.tier is Tier.EXACT:
        return word == clause.word
    if clause.tier is Tier.PREFIX:
        is_near = word.startswith(clause.word)
    elif clause.tier is Tier.PREFIX_TYPO:
        is_near = is_within_prefix(clause.word, word, clause.edits)
    else:
        is_near = is_within(clause.word, word, clause.edits)
    if not is_near or not clause.is_shelved:
        return is_near
    return find_shelf(word) == find_shelf(clause.word)


def _find_phrase(tokens: Sequence[Token], phrase: tuple[str, ...]) -> Iterator[int]:
    length = len(phrase)
    for start in range(len(tokens) - length + 1):
        if all(tokens[start + offset].word == phrase[offset] for offset in range(length)):
            yield from range(start, start + length)


def _choose_start(body: str, ranges: list[Range]) -> int:
    """Where the window with the most hits begins: a little before its first one, at a word."""
    if not ranges or len(body) <= PASSAGE_CHARS:
        return 0
    starts = [first for first, _ in ranges]
    room = PASSAGE_CHARS - _LEAD_CHARS
    # How many hits the window that leads with each hit would hold; the first of the best.
    held = [bisect_left(starts, first + room) - index for index, first in enumerate(starts)]
    best = starts[held.index(max(held))]
    start = max(0, min(best - _LEAD_CHARS, len(body) - PASSAGE_CHARS))
    space = body.find(" ", start, best)
    return space + 1 if start and space != -1 else start

"""Where a hit was hit: the plan as a predicate over the words of a text.

The same for both engines, in the original spelling, also for hits by typo. Ranges are half-open
and count Unicode code points of the string they belong to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf

from search.distance import is_within, is_within_prefix
from search.plan import BODY, TITLE, Clause, Plan, Tier
from search.shelves import find_shelf
from search.text import Tokens, tokenize

PASSAGE_CHARS = 240
_LEAD_CHARS = 40
# The hits of an answer share so many words that are looked at; texts of megabytes would cost
# seconds. What short texts leave is for those after them, and each gets the least number.
SCANNED_WORDS = 20_000
LEAST_SCANNED_WORDS = 200
# With less time left than this, no further body is looked at.
SPARE_SECONDS = 0.03

Range = tuple[int, int]


class Highlighter:
    """Marks the `hits` of one answer, one after the other, within a budget of words and of time."""

    def __init__(
        self, plan: Plan, *, hits: int = 1, count_seconds_left: Callable[[], float] = lambda: inf
    ) -> None:
        self._judges = {field: _Judge(plan, field) for field in (TITLE, BODY)}
        self._hits_left = hits
        self._words_left = SCANNED_WORDS
        self._count_seconds_left = count_seconds_left

    def mark(self, title: str, body: str) -> tuple[list[Range], str, list[Range]]:
        """The ranges of `title` that the plan hits, and a passage of `body` with its own.

        Both are NFC. The passage is of ≤ 240 characters, around the best hit.
        """
        share = max(self._words_left // max(self._hits_left, 1), LEAST_SCANNED_WORDS)
        title_ranges, of_title = self._scan(title, TITLE, share, spare_seconds=0)
        rest = max(share - of_title, LEAST_SCANNED_WORDS)
        ranges, of_body = self._scan(body, BODY, rest, spare_seconds=SPARE_SECONDS)
        self._hits_left -= 1
        self._words_left -= of_title + of_body
        return title_ranges, *_cut_passage(body, ranges)

    def _scan(
        self, text: str, field: str, most_words: int, *, spare_seconds: float
    ) -> tuple[list[Range], int]:
        """The ranges within the first words of `text`, and how many words these were."""
        judge = self._judges[field]
        # What was found is answered in any case: late is worse than without marks.
        if judge.is_idle or self._count_seconds_left() < spare_seconds:
            return [], 0
        tokens = tokenize(text, limit=most_words)
        return judge.find_ranges(tokens), len(tokens.words)


class _Judge:
    """Which words of a field the plan hits; each is judged once."""

    def __init__(self, plan: Plan, field: str) -> None:
        words = (*plan.words, *plan.surplus)
        clauses = [clause for word in words for clause in word if clause.field == field]
        # What is within one typo is within two.
        wider = {clause.word for clause in clauses if clause.tier is Tier.TWO_TYPOS}
        self._clauses = [
            each for each in clauses if each.tier is not Tier.TYPO or each.word not in wider
        ]
        self._phrases: dict[str, list[tuple[str, ...]]] = {}
        for phrase in dict.fromkeys(plan.phrases):
            self._phrases.setdefault(phrase[0], []).append(phrase)
        self._known: dict[str, bool] = {}

    @property
    def is_idle(self) -> bool:
        return not (self._clauses or self._phrases)

    def find_ranges(self, tokens: Tokens) -> list[Range]:
        known = self._known
        for word in tokens.words:
            if word not in known:
                known[word] = any(matches(clause, word) for clause in self._clauses)
        hit = {index for index, word in enumerate(tokens.words) if known[word]}
        if self._phrases:
            hit.update(self._find_phrases(tokens.words))
        return _merge(tokens.spans[index] for index in sorted(hit))

    def _find_phrases(self, words: Sequence[str]) -> Iterator[int]:
        for start, word in enumerate(words):
            for phrase in self._phrases.get(word, ()):
                if tuple(words[start : start + len(phrase)]) == phrase:
                    yield from range(start, start + len(phrase))


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


def _merge(ranges: Iterable[Range]) -> list[Range]:
    """`ranges`, sorted, without overlaps: several words may stand in one sign (½ is 1 and 2)."""
    merged: list[Range] = []
    for start, end in ranges:
        if merged and start < merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return merged


def _cut_passage(body: str, ranges: list[Range]) -> tuple[str, list[Range]]:
    start = _choose_start(body, ranges)
    passage = body[start : start + PASSAGE_CHARS]
    # A word longer than the passage, as tokens and keys are, is marked as far as it is shown.
    inside = [
        (max(first - start, 0), min(last - start, len(passage)))
        for first, last in ranges
        if first < start + len(passage) and last > start
    ]
    return passage, inside


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

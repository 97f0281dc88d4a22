"""“Did you mean …?”: the words that the best hits have where the query has a typo.

Made of the hits of the answer alone: so it costs no request, is the same on both engines, and never
tells a word that the asker may not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from search.answers import Hit
from search.highlight import PASSAGE_CHARS, matches
from search.plan import BODY, TITLE, Clause, Plan, Tier
from search.query import SearchQuery, Sort
from search.text import fold, to_nfc, tokenize


def suggest_text(query: SearchQuery, plan: Plan, hits: Sequence[Hit]) -> str | None:
    """The text of `query` with its misspelled words put right; None when there is none.

    `hits` is the first page. A word that one of them has as it was typed is no misspelled one.
    """
    # The first stage knows no typos, and only the best hits tell what the index has.
    if plan.stage == 0 or query.cursor or query.sort is not Sort.SCORE:
        return None
    marked = list(_list_marked(hits))
    better = {}
    for clauses in plan.words:
        # Hits come best first: of words that are equally near, the first is meant.
        found = [
            (clause, spelling)
            for field, spelling in marked
            for clause in clauses
            if clause.field == field and matches(clause, fold(spelling))
        ]
        if found and not any(clause.tier in (Tier.EXACT, Tier.PREFIX) for clause, _ in found):
            _, spelling = max(found, key=_count_points)
            # The first way to meet a word is exactly; others may look for its beginning only.
            better[clauses[0].word] = _lower(spelling)
    return _replace_words(query, better) if better else None


def _list_marked(hits: Sequence[Hit]) -> Iterator[tuple[str, str]]:
    for hit in hits:
        yield from ((TITLE, hit.title[start:end]) for start, end in hit.title_ranges)
        yield from ((BODY, hit.text[start:end]) for start, end in _list_whole(hit))


def _list_whole(hit: Hit) -> Iterator[tuple[int, int]]:
    """The ranges of the passage but for those at its edges, where a word may be cut."""
    is_cut = len(hit.text) == PASSAGE_CHARS
    for start, end in hit.text_ranges:
        if not is_cut or 0 < start < end < PASSAGE_CHARS:
            yield start, end


def _count_points(found: tuple[Clause, str]) -> int:
    return found[0].points


def _lower(spelling: str) -> str:
    # The lower case of İ is an i with a second dot.
    return spelling.lower().replace("i\u0307", "i")


def _replace_words(query: SearchQuery, better: Mapping[str, str]) -> str:
    """The text of `query` with its plain words put right, and everything else as it was typed."""
    pieces, end = [], 0
    for first, last in query.text.spans:
        pieces += [query.raw[end:first], *_put_right(to_nfc(query.raw[first:last]), better)]
        end = last
    return "".join([*pieces, query.raw[end:]]).strip()


def _put_right(text: str, better: Mapping[str, str]) -> Iterator[str]:
    end = 0
    for word, (start, after) in zip(*tokenize(text), strict=True):
        if word in better:
            yield from (text[end:start], better[word])
            end = after
    yield text[end:]

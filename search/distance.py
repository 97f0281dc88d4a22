"""Edit distance as the automata of both engines count it (optimal string alignment)."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=50_000)
def is_within(left: str, right: str, edits: int) -> bool:
    """Whether `left` becomes `right` by at most `edits` insertions, deletions, replacements of a
    character or exchanges of two neighbours."""
    if abs(len(left) - len(right)) > edits:
        return False
    return left == right or _measure(left, right, edits) <= edits


@lru_cache(maxsize=50_000)
def is_within_prefix(left: str, right: str, edits: int) -> bool:
    """Whether some beginning of `right` is within `edits` of `left`."""
    shortest = max(len(left) - edits, 0)
    return any(
        is_within(left, right[:length], edits)
        for length in range(shortest, min(len(left) + edits, len(right)) + 1)
    )


def _measure(left: str, right: str, limit: int) -> int:
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, 1):
        current = [row]
        for column, b in enumerate(right, 1):
            cost = min(
                previous[column] + 1,
                current[column - 1] + 1,
                previous[column - 1] + (a != b),
            )
            if row > 1 and column > 1 and a == right[column - 2] and left[row - 2] == b:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        if min(current) > limit and min(previous) > limit:
            return limit + 1
        before, previous = previous, current
    return previous[-1]

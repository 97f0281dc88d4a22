"""Edit distance as the automata of both engines count it (optimal string alignment)."""

from __future__ import annotations

from rapidfuzz.distance import OSA


def is_within(left: str, right: str, edits: int) -> bool:
    """Whether `left` becomes `right` by at most `edits` insertions, deletions, replacements of a
    character or exchanges of two neighbours."""
    if not -edits <= len(left) - len(right) <= edits:
        return False  # true of most words, and much sooner known
    distance: int = OSA.distance(left, right, score_cutoff=edits)
    return distance <= edits


def is_within_prefix(left: str, right: str, edits: int) -> bool:
    """Whether some beginning of `right` is within `edits` of `left`."""
    longest = right[: len(left) + edits]
    # What stands behind the nearest beginning adds at most two characters for each edit: most words
    # are told by one comparison.
    if not is_within(left, longest, 3 * edits):
        return False
    shortest = max(len(left) - edits, 0)
    return any(
        is_within(left, longest[:length], edits) for length in range(shortest, len(longest) + 1)
    )

"""Edit distance as the automata of both engines count it (optimal string alignment)."""

from __future__ import annotations

from rapidfuzz.distance import OSA


def is_within(left: str, right: str, edits: int) -> bool:
    """Whether `left` becomes `right` by at most `edits` insertions, deletions, replacements of a
    character or exchanges of two neighbours."""
    distance: int = OSA.distance(left, right, score_cutoff=edits)
    return distance <= edits


def is_within_prefix(left: str, right: str, edits: int) -> bool:
    """Whether some beginning of `right` is within `edits` of `left`."""
    shortest = max(len(left) - edits, 0)
    return any(
        is_within(left, right[:length], edits)
        for length in range(shortest, min(len(left) + edits, len(right)) + 1)
    )

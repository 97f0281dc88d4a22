"""API keys in turn. A key that is refused while others work rests; its place tells which it is."""

from __future__ import annotations

from ingest.fetch.answers import Verdict
from ingest.fetch.rotation import Rotation
from ingest.outcomes import Outcome

_REFUSED = frozenset({Outcome.DENIED, Outcome.REFUSED})


class KeyRing:
    """A source's API keys by their places in the list. With one or none there is nothing to do."""

    def __init__(self, count: int, rotation: Rotation) -> None:
        self._labels = [f"api_key[{index}]" for index in range(count)] if count > 1 else []
        self._rotation = rotation

    def choose(self, turn: int) -> int:
        """The place of the key whose turn it is. Where all rest, none of them is to blame."""
        labels = self._labels
        if not labels:
            return turn
        label = self._rotation.choose(labels, turn=turn) or labels[turn % len(labels)]
        return labels.index(label)

    def note(self, place: int, verdict: Verdict, status: int | None, *, since: float) -> None:
        """Counts an answer for or against its key, and names the key in the evidence of a refusal.

        `since`: when the request was sent.
        """
        if not self._labels or status is None:
            return
        label = self._labels[place]
        if verdict.outcome in _REFUSED:
            if verdict.evidence is not None:
                verdict.evidence["api_key"] = place
            self._rotation.note_doubt(label, f"answered with {status}", since=since)
        elif status < 500:
            self._rotation.note_success(label)

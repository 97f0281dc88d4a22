"""API keys in turn. A key that is refused while others work rests; its place tells which it is."""

from __future__ import annotations

from ingest.fetch.answers import Verdict
from ingest.fetch.rotation import Rotation
from ingest.outcomes import Outcome

_REFUSED = frozenset({Outcome.DENIED, Outcome.REFUSED})
# A key that is to wait for longer than this rests, where another one works.
LONG_WAIT_SECONDS = 2.0


class KeyRing:
    """A source's API keys by their places in the list. With one or none there is nothing to do."""

    def __init__(self, count: int, rotation: Rotation) -> None:
        self._labels = [f"api_key[{index}]" for index in range(count)] if count > 1 else []
        self._rotation = rotation
        # Those that were refused since they last worked.
        self._refused: set[str] = set()

    def choose(self, turn: int) -> int:
        """The place of the key whose turn it is. Where all rest, none of them is to blame."""
        labels = self._labels
        if not labels:
            return turn
        label = self._rotation.choose(labels, turn=turn) or labels[turn % len(labels)]
        return labels.index(label)

    def note(
        self,
        place: int,
        verdict: Verdict,
        status: int | None,
        *,
        since: float,
        named_wait: float | None = None,
    ) -> bool:
        """Counts an answer for or against its key, and names the key in the evidence of a refusal.

        `since`: when the request was sent; `named_wait`: seconds that a 429 asks for. Gives whether
        it is a refusal that may be about this key alone: another one neither rests nor was refused
        since it worked.
        """
        if not self._labels or status is None:
            return False
        label = self._labels[place]
        if verdict.outcome not in _REFUSED and not verdict.block_marker:
            if status < 500:
                self._refused.discard(label)
                self._rotation.note_success(label)
            return False
        if verdict.evidence is not None:
            verdict.evidence["api_key"] = place
        self._refused.add(label)
        is_alone = any(
            other not in self._refused and not self._rotation.is_resting(other)
            for other in self._labels
        )
        reason = f"answered with {status}"
        if is_alone and named_wait is not None and named_wait > LONG_WAIT_SECONDS:
            self._rotation.note_failure(label, reason, since=since, seconds=named_wait)
        else:
            self._rotation.note_doubt(label, reason, since=since)
        return is_alone

    def is_resting(self, place: int) -> bool:
        return bool(self._labels) and self._rotation.is_resting(self._labels[place])

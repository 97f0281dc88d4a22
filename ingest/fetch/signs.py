"""Signs that the whole source is shut or its host is down, as opposed to one row that fails.

They outlive a slice: `as_json` goes into `Run.signs`, and the next slice begins with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ingest.configuration import SourceConfiguration
from ingest.fetch.answers import Verdict
from ingest.outcomes import Outcome

STORM_NOTICED = 10


@dataclass(slots=True)
class Signs:
    """Counts over the source's classified answers, in the order of their arrival.

    `dead` are consecutive 5xx answers and dead connections; from `patience_5xx` on the host's
    circuit is open (since `down_since`), and `probes` counts the single sends that were tried
    since. `rate` and `held_until` are what `ingest.fetch.pace` has learned.
    """

    denied: int = 0
    refused: int = 0
    dead: int = 0
    probes: int = 0
    probe_after: float = 0.0
    down_since: float = 0.0
    has_answer: bool = False
    rate: float | None = None
    held_until: float = 0.0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class SignWatch:
    """Reads the signs of one source. `block_reason` is set once the source is shut to us.

    A marker in a 401 or 403 counts only when the answer before was a 401 or 403 too: one page that
    says "access denied" is that row's affair.
    """

    def __init__(self, configuration: SourceConfiguration, signs: Signs) -> None:
        self._block = configuration.block
        self._retry = configuration.retry
        self.signs = signs
        self.block_reason = ""
        self._storm_known_at = float("-inf")

    def note(self, verdict: Verdict, status: int | None, *, sent_at: float, at: float) -> None:
        """Counts one classified answer; `sent_at` and `at` are epoch seconds."""
        signs = self.signs
        is_http = status is not None
        signs.has_answer = signs.has_answer or is_http
        was_denied = signs.denied > 0
        if is_http:
            signs.denied = signs.denied + 1 if verdict.outcome == Outcome.DENIED else 0
            self._note_refusal(
                is_refused=verdict.outcome == Outcome.REFUSED, sent_at=sent_at, at=at
            )
        self._note_life(is_dead=not is_http or (status or 0) >= 500, sent_at=sent_at, at=at)
        self._look_for_block(verdict, was_denied=was_denied)

    def _note_refusal(self, *, is_refused: bool, sent_at: float, at: float) -> None:
        """Consecutive 429s. Those that were under way when the storm was noticed tell nothing new:
        many senders at once must not look like many refusals in a row."""
        signs = self.signs
        if not is_refused:
            signs.refused = 0
        elif signs.refused < STORM_NOTICED or sent_at >= self._storm_known_at:
            signs.refused += 1
            if signs.refused == STORM_NOTICED:
                self._storm_known_at = at

    def _look_for_block(self, verdict: Verdict, *, was_denied: bool) -> None:
        if self.block_reason:
            return
        signs, block = self.signs, self._block
        if verdict.has_block_marker and (was_denied or verdict.outcome != Outcome.DENIED):
            self.block_reason = "an answer says that access is blocked"
        elif signs.denied >= block.patience:
            self.block_reason = f"{signs.denied} answers in a row were 401 or 403"
        elif signs.refused >= block.patience_429:
            self.block_reason = f"{signs.refused} answers in a row were 429"

    def _note_life(self, *, is_dead: bool, sent_at: float, at: float) -> None:
        signs = self.signs
        if not is_dead:
            signs.dead, signs.probes, signs.probe_after, signs.down_since = 0, 0, 0.0, 0.0
            return
        signs.dead += 1
        if not self.is_host_down:
            return
        if not signs.down_since:
            signs.down_since = at
        elif sent_at < signs.down_since:
            # Under way when the circuit opened: many senders at once are not many probes.
            return
        else:
            signs.probes += 1
        wait = self._retry.base_seconds * 2.0 ** min(signs.probes, 30)
        signs.probe_after = at + min(wait, self._retry.cap_seconds)

    @property
    def is_host_down(self) -> bool:
        """The circuit is open: only single probes go out, at growing intervals."""
        return self.signs.dead >= self._block.patience_5xx

    @property
    def is_given_up(self) -> bool:
        """A host that never answered in this run is not probed until the deadline."""
        attempts = self._retry.attempts
        return (
            self.is_host_down
            and not self.signs.has_answer
            and attempts is not None
            and self.signs.probes >= attempts
        )

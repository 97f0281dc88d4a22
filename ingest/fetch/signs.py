"""Signs that the whole source is shut or its host is down, as opposed to one row that fails.

They belong to the run and outlive a slice: each slice notes what it sees, hands it over with its
flush (`take_news`, under the run's lock), and goes on with what all slices of the run know together
(`adopt`). "In a row" is judged over the answers of all of them, by their time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from ingest.configuration import SourceConfiguration
from ingest.fetch.answers import Verdict
from ingest.fetch.streaks import Streak
from ingest.outcomes import Outcome

STORM_NOTICED = 10
STREAKS = ("denied", "refused", "dead")
_OF_CREDENTIALS = frozenset({"denied", "marked_at", "block_reason", "block_evidence", "rests"})


@dataclass(slots=True)
class Signs:
    """What a run knows of its source; times are epoch seconds.

    `denied` are 401/403, `refused` 429, `dead` 5xx answers and dead connections in a row, each with
    no other answer of the source between. Once `dead` has reached `patience_5xx` the host's circuit
    is open (since `down_since`), and `probes` counts the single sends tried since. `has_answer`
    says that the host has answered at all, `has_good` that some answer was none of the three: the
    source lets us in. `marked_at` are the denials that carry a block marker. `block_reason` is set,
    with the answer that shows it, once the source is shut to us. `rate` (learned at `rate_at`) and
    `held_until` are what `ingest.fetch.pace` has learned. `dead_error` and `dead_reason` tell the
    latest of `dead`; `rests` the proxies and keys that are set aside (`ingest.fetch.rotation`).
    `reports` says until when each living slice has reported.
    """

    denied: Streak = field(default_factory=Streak)
    refused: Streak = field(default_factory=Streak)
    dead: Streak = field(default_factory=Streak)
    marked_at: list[float] = field(default_factory=list)
    block_reason: str = ""
    block_evidence: dict[str, Any] = field(default_factory=dict)
    probes: int = 0
    probe_after: float = 0.0
    down_since: float = 0.0
    has_answer: bool = False
    has_good: bool = False
    rate: float | None = None
    rate_at: float = 0.0
    held_until: float = 0.0
    dead_error: str = ""
    dead_reason: str = ""
    rests: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, float] = field(default_factory=dict)
    progress_at: float = 0.0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)} & stored.keys() - set(STREAKS)
        values: dict[str, Any] = {name: stored[name] for name in known}
        values |= {name: Streak(**stored[name]) for name in STREAKS if name in stored}
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_host_down(self) -> bool:
        """The circuit is open: only single probes go out, at growing intervals."""
        return self.down_since > 0

    def is_given_up(self, configuration: SourceConfiguration) -> bool:
        """A host that never answered in this run is not probed until the deadline."""
        attempts = configuration.retry.attempts
        if not self.is_host_down or self.has_answer:
            return False
        if self.dead_error == "refused_address":
            return True  # by ourselves: no probe will tell anything else
        return attempts is not None and self.probes >= attempts

    def without_credentials(self) -> Signs:
        """The same without what was said to the keys and proxies that were used."""
        return Signs.of(
            {name: told for name, told in self.as_json().items() if name not in _OF_CREDENTIALS}
        )

    def absorb(self, news: Signs) -> None:
        """Adds what one slice saw since its last report."""
        for name in STREAKS:
            getattr(self, name).absorb(getattr(news, name))
        self.marked_at = sorted([*self.marked_at, *news.marked_at])
        self.has_answer = self.has_answer or news.has_answer
        self.has_good = self.has_good or news.has_good
        if news.block_evidence.get("at", 0.0) >= self.block_evidence.get("at", 0.0):
            self.block_evidence = news.block_evidence or self.block_evidence
        self.block_reason = self.block_reason or news.block_reason
        self.probes = max(self.probes, news.probes)
        self.probe_after = max(self.probe_after, news.probe_after)
        self.down_since = self.down_since or news.down_since
        if news.rate_at > self.rate_at:
            self.rate, self.rate_at = news.rate, news.rate_at
        self.held_until = max(self.held_until, news.held_until)
        if news.dead_error:
            self.dead_error, self.dead_reason = news.dead_error, news.dead_reason
        self.rests = self.rests | {
            label: rest
            for label, rest in news.rests.items()
            if rest["at"] >= self.rests.get(label, {}).get("at", 0.0)
        }

    def judge(self, configuration: SourceConfiguration, *, at: float, until: float) -> None:
        """Decides whether the source is shut or its host is down.

        `until`: everything up to then is known. Later answers may yet turn out to have another one
        between them, and do not count.
        """
        self.marked_at = [each for each in self.marked_at if each > self.denied.broken_at]
        if not self.block_reason:
            self.block_reason = self._find_block(configuration, until)
        patience = configuration.block.patience_5xx
        if self.dead.count() < patience:
            self.probes, self.probe_after, self.down_since = 0, 0.0, 0.0
        elif not self.down_since and self.dead.count(until) >= patience:
            self.down_since = at
            self.delay_probe(configuration, at=at)

    def _find_block(self, configuration: SourceConfiguration, until: float) -> str:
        block = configuration.block
        denied, refused = self.denied.count(until), self.refused.count(until)
        # One page that says "access denied" is that row's affair: the answer before must have been
        # a 401 or 403 too.
        if any(at <= until and self.denied.count(at) > 1 for at in self.marked_at):
            return "an answer says that access is blocked"
        if denied >= block.patience:
            return f"{denied} answers in a row were 401 or 403"
        if refused >= block.patience_429:
            return f"{refused} answers in a row were 429"
        return ""

    def delay_probe(self, configuration: SourceConfiguration, *, at: float) -> None:
        retry = configuration.retry
        wait = retry.base_seconds * 2.0 ** min(self.probes, 30)
        self.probe_after = at + min(wait, retry.cap_seconds)


class SignWatch:
    """One slice's eyes on its source.

    `signs` are the run's as of the last report and what was seen here since. As long as no other
    slice of the run lives (`is_alone`), each answer is judged at once; else when all have reported.
    """

    def __init__(
        self, configuration: SourceConfiguration, signs: Signs, *, is_alone: bool = True
    ) -> None:
        self._configuration = configuration
        self._is_alone = is_alone
        self._news = Signs()
        self._broken_at = 0.0
        self.signs = signs

    def note(
        self,
        verdict: Verdict,
        status: int | None,
        *,
        sent_at: float,
        at: float,
        key: str = "",
        is_telling: bool = True,
    ) -> None:
        """Counts one classified answer, the latest so far. Not `is_telling`: a bad one is known to
        be about its row or API key, and says nothing of the source."""
        if status is None and verdict.error == "unsendable":
            return  # it never left the machine
        is_http, is_dead = status is not None, status is None or status >= 500
        if is_http and not self.signs.has_answer:
            self.signs.has_answer = self._news.has_answer = True
        if not is_dead and verdict.outcome not in _TELLING and not verdict.block_marker:
            if not self.signs.has_good:
                self.signs.has_good = self._news.has_good = True
            self._broken_at = at  # nearly all answers: it ends every streak, which can wait
            if self.signs.is_host_down:
                self._end_streaks()
            return
        self._end_streaks()
        if is_http:
            is_denied = verdict.outcome == Outcome.DENIED
            is_refused = verdict.outcome == Outcome.REFUSED
            self._count("denied", at, is_one=is_denied, is_telling=is_telling)
            self._count_refusal(at, sent_at, is_one=is_refused, is_telling=is_telling)
            if is_telling:
                self._note_block_sign(verdict, key=key, at=at)
        self._count("dead", at, is_one=is_dead, is_telling=is_telling)
        self._note_probe(is_dead=is_dead, sent_at=sent_at, at=at)
        if is_dead:
            reason = str((verdict.evidence or {}).get("reason", ""))
            for signs in self._both():
                signs.dead_error, signs.dead_reason = verdict.error, reason
        if self._is_alone:
            self._judge(at)

    def _both(self) -> tuple[Signs, Signs]:
        return self.signs, self._news

    def _end_streaks(self) -> None:
        if at := self._broken_at:
            self._broken_at = 0.0
            for signs in self._both():
                for name in STREAKS:
                    getattr(signs, name).end(at)
            self.signs.judge(self._configuration, at=at, until=0.0)

    def _count(self, name: str, at: float, *, is_one: bool, is_telling: bool) -> None:
        if is_one and not is_telling:
            return
        for signs in self._both():
            streak: Streak = getattr(signs, name)
            if is_one:
                streak.extend(at)
            else:
                streak.end(at)

    def _count_refusal(self, at: float, sent_at: float, *, is_one: bool, is_telling: bool) -> None:
        """Those that were under way when the storm was noticed tell nothing new: many senders at
        once must not look like many refusals in a row."""
        streak = self.signs.refused
        is_known = streak.count() >= STORM_NOTICED and not streak.earlier
        if is_one and is_known and sent_at < streak.times[STORM_NOTICED - 1]:
            return
        self._count("refused", at, is_one=is_one, is_telling=is_telling)

    def _note_block_sign(self, verdict: Verdict, *, key: str, at: float) -> None:
        is_denied = verdict.outcome == Outcome.DENIED
        if not (is_denied or verdict.outcome == Outcome.REFUSED or verdict.block_marker):
            return
        evidence = {**(verdict.evidence or {}), "key": key, "at": at}
        if verdict.block_marker:
            evidence["marker"] = verdict.block_marker
        for signs in self._both():
            if not signs.block_reason:
                signs.block_evidence = evidence
            if verdict.block_marker and is_denied:
                signs.marked_at.append(at)
            elif verdict.block_marker:
                signs.block_reason = signs.block_reason or "an answer says that access is blocked"

    def _note_probe(self, *, is_dead: bool, sent_at: float, at: float) -> None:
        signs = self.signs
        # Under way when the circuit opened: many senders at once are not many probes.
        if is_dead and signs.is_host_down and sent_at >= signs.down_since:
            signs.probes += 1
            signs.delay_probe(self._configuration, at=at)
            self._news.probes, self._news.probe_after = signs.probes, signs.probe_after

    def _judge(self, at: float) -> None:
        signs, news = self.signs, self._news
        signs.judge(self._configuration, at=at, until=at)
        news.block_reason = signs.block_reason
        news.down_since, news.probe_after = signs.down_since, signs.probe_after

    def note_pace(self, rate: float | None, held_until: float, *, at: float) -> None:
        """What `ingest.fetch.pace` has learned from the latest answer."""
        if rate != self.signs.rate:
            for signs in self._both():
                signs.rate, signs.rate_at = rate, at
        if held_until > self.signs.held_until:
            self.signs.held_until = self._news.held_until = held_until

    @property
    def rests(self) -> dict[str, Any]:
        return self.signs.rests

    def note_rest(self, label: str, rest: Mapping[str, Any]) -> None:
        """A proxy or key is set aside, or works again; see `ingest.fetch.rotation`."""
        for signs in self._both():
            signs.rests = {**signs.rests, label: dict(rest)}

    def take_news(self) -> Signs:
        """What was seen since the last call, to be handed over."""
        self._end_streaks()
        news, self._news = self._news, Signs()
        return news

    def adopt(self, signs: Signs, *, is_alone: bool) -> None:
        """Goes on with what all slices know. What was seen since `take_news` is not in it yet."""
        self._is_alone = is_alone
        signs.absorb(self._news)
        self.signs = signs

    @property
    def block_reason(self) -> str:
        return self.signs.block_reason

    @property
    def is_host_down(self) -> bool:
        return self.signs.is_host_down

    @property
    def is_given_up(self) -> bool:
        return self.signs.is_given_up(self._configuration)


_TELLING = frozenset({Outcome.DENIED, Outcome.REFUSED})

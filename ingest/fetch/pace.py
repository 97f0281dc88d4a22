"""The rate that an upstream bears, learned from its refusals. Pure: times are passed in.

Falls to what the upstream lately let pass when refusals pile up, at most once a second; a fall
that does not lower their share within three seconds is taken back, because those 429s are not
about the rate. Rises in small steps while nothing is refused; a refusal right after a step undoes
it and makes the next one wait longer. Refusals in a row, or delays named by half of the answers,
hold the whole host for a while.
"""

from __future__ import annotations

from collections import deque

MIN_RATE = 1.0
FALL_SECONDS = 1.0
JUDGE_SECONDS = 3.0
# A storm shows within a second; a leak, as of a limit slightly above what is borne, within three.
# Before a whole second was seen, more than half must be refused.
STORM_SHARE, EARLY_STORM_SHARE = 0.3, 0.5
LEAK_SHARE = 0.08
ENOUGH_ANSWERS = 20
# A fall that helped at least halves the share of refusals.
HELPED_SHARE = 0.5
RISE_SECONDS = 5.0
MAX_RISE_SECONDS = 60.0
RISE_FACTOR = 1.03
# What passes in a second is the limit plus what the second before had left.
FALL_FACTOR = 0.95
HELD_AFTER = 20
PAUSED_AFTER = 10


class Pace:
    """`rate` is the learned limit in sends per second, None while nothing speaks for one."""

    def __init__(
        self, *, configured: float | None, rate: float | None = None, held_until: float = 0.0
    ) -> None:
        self._configured = configured
        self.rate = rate
        self.held_until = held_until
        self._answers: deque[tuple[float, bool]] = deque()
        self._named: deque[bool] = deque(maxlen=HELD_AFTER)
        self._began_at = float("inf")
        self._fell_at = float("-inf")
        # (when the falls that are on trial began, the rate and the share of refusals before them)
        self._trial: tuple[float, float | None, float] | None = None
        self._noise_share = 0.0
        self._in_a_row = self._pauses = 0
        self._paused_at = float("-inf")
        self._rose_at = float("-inf")
        self._before_rise: float | None = None
        self._rise_seconds = RISE_SECONDS

    @property
    def limit(self) -> float | None:
        """The smaller of the configured and the learned limit."""
        rates = [rate for rate in (self._configured, self.rate) if rate is not None]
        return min(rates) if rates else None

    def note(
        self, *, sent_at: float, now: float, is_refused: bool, named_wait: float | None, cap: float
    ) -> None:
        """Counts one answer. `named_wait`: seconds of a Retry-After with a 429 or 503."""
        self._began_at = min(self._began_at, now)
        self._answers.append((now, is_refused))
        while self._answers and self._answers[0][0] < now - JUDGE_SECONDS:
            self._answers.popleft()
        self._hold(named_wait, now=now, cap=cap)
        self._pause(is_refused=is_refused, sent_at=sent_at, now=now, cap=cap)
        self._judge_fall(now)
        # A refusal of what was sent before the last change says nothing about that change.
        if is_refused and sent_at >= max(self._fell_at, self._rose_at):
            self._heed_refusal(now)
        elif not is_refused:
            self._rise(now)

    def _hold(self, named_wait: float | None, *, now: float, cap: float) -> None:
        """Half of the last 20 answers named a delay: it is the host's, not the row's."""
        self._named.append(named_wait is not None)
        if named_wait is not None and 2 * sum(self._named) >= HELD_AFTER:
            self.held_until = max(self.held_until, now + min(named_wait, cap))

    def _pause(self, *, is_refused: bool, sent_at: float, now: float, cap: float) -> None:
        """Ten refusals in a row: the host is left alone for a second, then for two, four, …

        Those that were under way when the pause began do not count towards the next.
        """
        if not is_refused:
            self._in_a_row = self._pauses = 0
        elif sent_at >= self._paused_at:
            self._in_a_row += 1
            if self._in_a_row % PAUSED_AFTER == 0:
                self.held_until = max(self.held_until, now + min(2.0**self._pauses, cap))
                self._pauses += 1
                self._paused_at = now

    def _heed_refusal(self, now: float) -> None:
        if self._before_rise is not None and now - self._rose_at <= self._rise_seconds:
            self.rate, self._before_rise = self._before_rise, None
            self._rise_seconds = min(MAX_RISE_SECONDS, self._rise_seconds * 2)
            self._rose_at = now
            return
        if now - self._fell_at >= FALL_SECONDS and self._is_too_fast(now):
            self._fall(now)

    def _is_too_fast(self, now: float) -> bool:
        lately = self._refusals_since(now - FALL_SECONDS)
        before = self._refusals_since(now - JUDGE_SECONDS)
        if now - self._began_at < FALL_SECONDS:
            return len(lately) >= ENOUGH_ANSWERS and _share(lately) > EARLY_STORM_SHARE
        is_storm = sum(lately) > 1 and _share(lately) > self._above_noise(STORM_SHARE)
        if self._trial is not None:
            # What little is left may yet go away; only a storm is worth another fall before that.
            return is_storm and len(lately) >= ENOUGH_ANSWERS // 2
        # Two standard deviations above it, so that a fluctuation is not taken for a leak.
        expected = len(before) * self._above_noise(LEAK_SHARE)
        is_leak = len(before) >= ENOUGH_ANSWERS and sum(before) > expected + 2 * expected**0.5
        return is_storm or is_leak

    def _above_noise(self, share: float) -> float:
        return max(share, min(0.95, 2 * self._noise_share))

    def _refusals_since(self, start: float) -> list[bool]:
        """Of the answers since then, but since the last fall at the earliest."""
        start = max(start, self._fell_at)
        return [is_refused for at, is_refused in self._answers if at > start]

    def _fall(self, now: float) -> None:
        if self._trial is None:
            self._trial = (now, self.rate, _share(self._refusals_since(now - JUDGE_SECONDS)))
        passed = self._refusals_since(now - FALL_SECONDS).count(False) / FALL_SECONDS
        present = self.limit
        fallen = passed * FALL_FACTOR
        if present is not None:
            # Nothing passed: half is left of what was tried.
            fallen = min(fallen, present * FALL_FACTOR) if passed else present / 2
        self.rate = max(MIN_RATE, fallen)
        self._fell_at = self._rose_at = now
        self._before_rise = None

    def _judge_fall(self, now: float) -> None:
        if self._trial is None or now - self._trial[0] < JUDGE_SECONDS:
            return
        _, rate_before, share_before = self._trial
        answers = self._refusals_since(now - JUDGE_SECONDS)
        if now - self._fell_at < FALL_SECONDS or not answers:
            return
        share = _share(answers)
        self._trial = None
        if share >= HELPED_SHARE * share_before:
            self.rate, self._noise_share = rate_before, max(self._noise_share, share)

    def _rise(self, now: float) -> None:
        if self.rate is None or now - max(self._rose_at, self._fell_at) < self._rise_seconds:
            return
        if self._configured is not None and self.rate >= self._configured:
            self.rate = None
            return
        if self._before_rise is not None:
            # The step before has stood the test.
            self._rise_seconds = max(RISE_SECONDS, self._rise_seconds / 2)
        self._before_rise, self._rose_at = self.rate, now
        self.rate = self.rate * RISE_FACTOR


def _share(answers: list[bool]) -> float:
    return sum(answers) / len(answers) if answers else 0.0

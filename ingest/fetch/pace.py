"""The rate that an upstream bears, learned from its refusals. Pure: times are passed in.

Falls when refusals pile up, at most once a second; a deep fall that does not lower their share
within three seconds is taken back, because those 429s are not about the rate. Rises in small steps
while nothing is refused; a refusal right after a step undoes it and makes the next one wait longer.

Ten refusals in a row shut the source for a second, then for two, four, …, with one probe after
each. Once it lets us in again, what it let pass since the last time, over the time it took, is the
rate that it bears: so a limit per minute is learned as well as one per second.

What is learned belongs to the source, whose slices work side by side: `control` is what they share
(the newest wins), the answers that each has seen are its own, and `crowd` tells how many sends the
host has got for each of them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

MIN_RATE = 1.0
FALL_SECONDS = 1.0
JUDGE_SECONDS = 3.0
MEMORY_SECONDS = 30.0
BUCKET_SECONDS = 0.1
# A storm shows within a second (before a whole one was seen, more than half must be refused); a
# leak, as of a limit slightly above what is borne, takes longer.
STORM_SHARE, EARLY_STORM_SHARE = 0.3, 0.5
LEAK_SHARE, LEARNED_LEAK_SHARE = 0.02, 0.002
LEAK_DEVIATIONS = 2.5
ENOUGH_ANSWERS = 20
# A fall that helped at least halves the share of refusals. One that left more than this of the rate
# tells nothing where it did not: it may have been too small.
HELPED_SHARE, SHALLOW_SHARE = 0.5, 0.85
# That it did not help is said this much later: who has seen it help is heard before.
HEARING_SECONDS = 0.5
RISE_SECONDS = 5.0
MAX_RISE_SECONDS = 600.0
# Steps grow while nothing is refused, so that a rate that was learned too low is left behind.
RISE_STEP, MAX_RISE_STEP = 0.03, 0.12
# A refusal this long after a step is still put down to it: a bucket of tokens hides it for a while.
RISE_BLAMED_SECONDS = 60.0
# Then nothing leaves for a moment: some servers count what they refuse, too.
BREATH_SECONDS = 0.25
FALL_FACTOR = 0.95
# Up to this share of what was borne before, a rate that fell rises soon.
NEAR_SHARE, LOW_RISE_SECONDS = 0.95, 1.0
# How long a share of refusals that are not about the rate is taken for granted; the time doubles
# with each fall that was of no use.
NOISE_SECONDS, MAX_NOISE_SECONDS = 5.0, 120.0
# What a source let pass tells its limit where it was shut for this much of the time. In between a
# few seconds and these, it is the rate that was a little too high.
LONG_SHUT_SHARE, LONG_SHUT_SECONDS = 0.25, 10.0
HELD_AFTER = 20
SHUT_AFTER = 10
# A limit over a few seconds, and how soon more is tried after one was learned.
SHORT_CYCLE_SECONDS, FIRST_RISE_SECONDS, FIRST_RISE_STEP = 5.0, 1.0, 0.25
# What a source lets pass between two times that it is shut must be this much to tell a rate.
TELLING_PASSES = 5
TELLING_SECONDS = 0.9


@dataclass(slots=True)
class Control:
    """What all slices of a source share. Times are epoch seconds, `at` that of the last change.

    `ceiling` is a rate that was borne before something was refused: below it steps up are quick.
    `trial_at`, `trial_rate`, `trial_share`: when the falls that are on trial began, the rate and
    the share of refusals before them. `shut_at` is set while everything is refused, `probe_at` is
    the time from which on a send is a probe; `cycle_at` is when the source last let us in again,
    and `cycle_passed` what the host has let pass since.
    """

    at: float = 0.0
    rate: float | None = None
    changed_at: float = 0.0
    fell_at: float = 0.0
    rose_at: float = 0.0
    before_rise: float | None = None
    rise_seconds: float = RISE_SECONDS
    rise_step: float = RISE_STEP
    ceiling: float | None = None
    noise_share: float = 0.0
    noise_at: float = 0.0
    noise_seconds: float = 0.0
    trial_at: float = 0.0
    trial_rate: float | None = None
    trial_share: float = 0.0
    shut_at: float = 0.0
    probe_at: float = 0.0
    pauses: int = 0
    cycle_at: float = 0.0
    cycle_passed: float = 0.0
    held_until: float = 0.0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Pace:
    """`rate` is the learned limit in sends per second, None while nothing speaks for one."""

    def __init__(
        self,
        *,
        configured: float | None,
        rate: float | None = None,
        held_until: float = 0.0,
    ) -> None:
        self._configured = configured
        # Older than anything that a slice may still have to say.
        self.control = Control(rate=rate, held_until=held_until)
        # Sends of the host for each of ours, lately.
        self.crowd = 1.0
        # [number of the bucket, passed, refused]: answers to what was sent since the last change
        self._buckets: deque[list[int]] = deque()
        self._named: deque[bool] = deque(maxlen=HELD_AFTER)
        self._in_a_row = 0
        self._began_at = 0.0

    @property
    def rate(self) -> float | None:
        return self.control.rate

    @property
    def held_until(self) -> float:
        return self.control.held_until

    @property
    def learned(self) -> float | None:
        """The limit that the upstream asks for; while it refuses everything, only probes."""
        return MIN_RATE if self.control.shut_at else self.rate

    @property
    def limit(self) -> float | None:
        """The smaller of the configured and the learned limit."""
        rates = [rate for rate in (self._configured, self.learned) if rate is not None]
        return min(rates) if rates else None

    def adopt(self, control: Control) -> None:
        """Goes on with what another slice of the source has learned, where that is newer."""
        if control.at <= self.control.at:
            return
        if control.changed_at > self.control.changed_at:
            self._buckets.clear()
        if control.cycle_at == self.control.cycle_at:
            control.cycle_passed = max(control.cycle_passed, self.control.cycle_passed)
        control.held_until = max(control.held_until, self.held_until)
        self.control = control

    def hold_until(self, moment: float) -> None:
        self.control.held_until = max(self.held_until, moment)

    def note(
        self, *, sent_at: float, now: float, is_refused: bool, named_wait: float | None, cap: float
    ) -> None:
        """Counts one answer. `named_wait`: seconds of a Retry-After with a 429 or 503."""
        control = self.control
        self._began_at = self._began_at or sent_at
        control.cycle_at = control.cycle_at or sent_at
        self._hold(named_wait, now=now, cap=cap)
        if not is_refused:
            self._in_a_row = 0
            control.cycle_passed += self.crowd
            if control.shut_at and sent_at >= control.probe_at:
                self._reopen(now)
        elif sent_at >= control.probe_at:
            self._in_a_row += 1
            if control.shut_at or self._in_a_row >= SHUT_AFTER:
                self._shut(now, cap)
        # An answer to what was sent before the last change says nothing about that change.
        if control.shut_at or sent_at < control.changed_at:
            return
        self._count(now, is_refused=is_refused)
        self._judge_fall(now)
        if is_refused:
            self._heed_refusal(now)
        else:
            self._rise(now)

    def _hold(self, named_wait: float | None, *, now: float, cap: float) -> None:
        """Half of the last 20 answers named a delay: it is the host's, not the row's."""
        self._named.append(named_wait is not None)
        if named_wait is not None and 2 * sum(self._named) >= HELD_AFTER:
            self._hold_for(min(named_wait, cap), now)

    def _hold_for(self, seconds: float, now: float) -> None:
        if now + seconds > self.held_until:
            self.control.held_until = now + seconds
            self.control.at = now

    def _shut(self, now: float, cap: float) -> None:
        """Nothing passes: the host is left alone for a while. What is under way tells nothing."""
        control = self.control
        control.shut_at = control.shut_at or now
        control.probe_at = control.at = now
        self._hold_for(min(2.0 ** min(control.pauses, 30), cap), now)
        control.pauses += 1

    def _reopen(self, now: float) -> None:
        control = self.control
        passed, seconds = control.cycle_passed, now - control.cycle_at
        shut_seconds, is_short = now - control.shut_at, seconds < SHORT_CYCLE_SECONDS
        is_telling = (is_short or shut_seconds >= LONG_SHUT_SECONDS) and (
            shut_seconds >= LONG_SHUT_SHARE * seconds
        )
        control.shut_at, control.pauses = 0.0, 0
        before, undone = self.limit, control.before_rise
        self._change(now)
        if passed < TELLING_PASSES or seconds < TELLING_SECONDS:
            return
        control.cycle_at, control.cycle_passed = now, 0.0
        step = RISE_STEP
        if is_telling or before is None:
            borne = passed / seconds
            control.ceiling = None
            if is_short:
                # More may be borne, as we were away for most of the time; that shows soon.
                control.rise_seconds, step = FIRST_RISE_SECONDS, FIRST_RISE_STEP
            else:
                # A limit over a long time is tried again only after as long a time.
                control.rise_seconds = min(MAX_RISE_SECONDS, max(control.rise_seconds, 2 * seconds))
        else:
            borne = control.ceiling = undone or before * FALL_FACTOR
            self._delay_rise()
        control.rise_step = step
        if before is None or borne < before:
            control.trial_at, control.trial_rate, control.trial_share = now, control.rate, 1.0
            control.rate, control.fell_at = max(MIN_RATE, borne), now

    def _change(self, now: float) -> None:
        control = self.control
        control.at = control.changed_at = control.rose_at = now
        control.before_rise = None
        self._buckets.clear()

    def _count(self, now: float, *, is_refused: bool) -> None:
        number = int(now / BUCKET_SECONDS)
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append([number, 0, 0])
            oldest = number - MEMORY_SECONDS / BUCKET_SECONDS
            while self._buckets[0][0] < oldest:
                self._buckets.popleft()
        self._buckets[-1][2 if is_refused else 1] += 1

    def _look_back(self, seconds: float, now: float) -> tuple[int, int, float]:
        """(passed, refused, seconds that were seen) of the last `seconds` since the last change."""
        oldest = (now - seconds) / BUCKET_SECONDS
        passed = refused = 0
        for number, good, bad in reversed(self._buckets):
            if number < oldest:
                break
            passed, refused = passed + good, refused + bad
        control = self.control
        seen = now - max(now - seconds, control.changed_at, control.cycle_at, self._began_at)
        return passed, refused, max(seen, BUCKET_SECONDS)

    def _heed_refusal(self, now: float) -> None:
        control = self.control
        if now - control.fell_at < FALL_SECONDS:
            return
        if self._is_step_to_blame(now):
            control.rate = control.ceiling = control.before_rise
            control.fell_at = now  # it is a fall, too
            self._delay_rise()
            control.rise_step = RISE_STEP
            self._change(now)
            self._hold_for(BREATH_SECONDS, now)
        elif seconds := self._find_storm(now):
            passed, refused, seen = self._look_back(seconds, now)
            self._fall(now, to=passed / seen, share=refused / (passed + refused))
        elif not control.trial_at and self._is_leak(now):
            passed, refused, seen = self._look_back(MEMORY_SECONDS, now)
            lately, _, lately_seen = self._look_back(JUDGE_SECONDS, now)
            borne = min(passed / seen, lately / lately_seen)
            self._fall(now, to=borne, share=refused / (passed + refused))
            self._delay_rise()

    def _delay_rise(self) -> None:
        longer = max(RISE_SECONDS, self.control.rise_seconds * 2)
        self.control.rise_seconds = min(MAX_RISE_SECONDS, longer)

    def _is_step_to_blame(self, now: float) -> bool:
        control = self.control
        blamed_seconds = max(control.rise_seconds, RISE_BLAMED_SECONDS)
        if control.before_rise is None or now - control.rose_at > blamed_seconds:
            return False
        passed, refused, _ = self._look_back(MEMORY_SECONDS, now)
        return _is_beyond_chance(refused, (passed + refused) * self._noise(now))

    def _noise(self, now: float) -> float:
        """The share of refusals that is known not to be about the rate."""
        control = self.control
        return control.noise_share if now - control.noise_at < control.noise_seconds else 0.0

    def _find_storm(self, now: float) -> float:
        """Over how many seconds a storm is seen; 0.0 without one."""
        share = max(STORM_SHARE, min(0.95, 2 * self._noise(now)))
        for seconds in (FALL_SECONDS, JUDGE_SECONDS, MEMORY_SECONDS):
            passed, refused, seen = self._look_back(seconds, now)
            if passed + refused >= ENOUGH_ANSWERS:
                if seen < FALL_SECONDS:
                    share = max(share, EARLY_STORM_SHARE)
                return seconds if refused > share * (passed + refused) else 0.0
        return 0.0

    def _is_leak(self, now: float) -> bool:
        """More refusals than chance would bring, in the last seconds or in the last half minute."""
        # Where a limit is known to be there, less is enough.
        share = LEAK_SHARE if self.rate is None else LEARNED_LEAK_SHARE
        share = max(share, min(0.95, 2 * self._noise(now)))
        for seconds in (JUDGE_SECONDS, MEMORY_SECONDS):
            passed, refused, _ = self._look_back(seconds, now)
            count = passed + refused
            if count >= ENOUGH_ANSWERS and _is_beyond_chance(refused, share * count):
                return True
        return False

    def _fall(self, now: float, *, to: float, share: float) -> None:
        """A little below what the upstream let pass lately."""
        control, present = self.control, self.limit
        if not control.trial_at:
            control.trial_at, control.trial_rate, control.trial_share = now, control.rate, 0.0
            if control.rate is not None:
                control.ceiling = min(control.rate, control.ceiling or control.rate)
        control.trial_share = max(control.trial_share, share)
        fallen = to * self.crowd * FALL_FACTOR
        if present is not None:
            fallen = min(fallen, present * FALL_FACTOR) if to else present / 2
        control.rate = max(MIN_RATE, fallen)
        control.rise_step = RISE_STEP
        control.fell_at = now
        self._change(now)

    def _judge_fall(self, now: float) -> None:
        control = self.control
        if not control.trial_at or now - control.trial_at < JUDGE_SECONDS:
            return
        if now - control.fell_at < FALL_SECONDS:
            return
        passed, refused, _ = self._look_back(MEMORY_SECONDS, now)
        share = refused / (passed + refused)
        if share < HELPED_SHARE * control.trial_share:
            control.noise_seconds = 0.0
            control.trial_at, control.at = 0.0, now
        elif now - control.trial_at < JUDGE_SECONDS + HEARING_SECONDS:
            return
        elif (rate := control.rate or 0.0) > max(MIN_RATE, self._shallow_rate):
            control.rate = max(MIN_RATE, rate * (1 - share) * FALL_FACTOR)
            control.trial_at = control.fell_at = now
            self._change(now)
        else:
            control.rate = control.trial_rate
            control.noise_share, control.noise_at = share, now
            again_after = max(NOISE_SECONDS, 2 * control.noise_seconds)
            control.noise_seconds = min(MAX_NOISE_SECONDS, again_after)
            control.trial_at = 0.0
            self._change(now)

    @property
    def _shallow_rate(self) -> float:
        """A fall that ends above it was a small one."""
        return SHALLOW_SHARE * (self.control.trial_rate or math.inf)

    def _rise(self, now: float) -> None:
        control = self.control
        if control.rate is None or control.trial_at:
            return
        is_low = control.ceiling is not None and control.rate < NEAR_SHARE * control.ceiling
        wait = min(LOW_RISE_SECONDS, control.rise_seconds) if is_low else control.rise_seconds
        if now - max(control.rose_at, control.fell_at) < wait:
            return
        if self._configured is not None and control.rate >= self._configured:
            control.rate = None
            self._change(now)
            return
        if control.before_rise is not None and not is_low:
            # The step before has stood the test.
            sooner = max(RISE_SECONDS, control.rise_seconds / 2)
            control.rise_seconds = min(control.rise_seconds, sooner)
            control.rise_step = max(control.rise_step, min(MAX_RISE_STEP, 2 * control.rise_step))
        before = control.rate
        risen = before * (1 + (MAX_RISE_STEP if is_low else control.rise_step))
        if is_low and control.ceiling is not None:
            risen = min(risen, NEAR_SHARE * control.ceiling)
        self._change(now)
        control.before_rise, control.rate = before, risen


def _is_beyond_chance(count: int, expected: float) -> bool:
    return count > expected + LEAK_DEVIATIONS * math.sqrt(expected) + (1 if expected else 0)

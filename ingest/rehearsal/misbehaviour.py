"""How the rehearsal upstream misbehaves: the kinds, the rules, and the named profiles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ingest.outcomes import Outcome


class Misbehaviour(StrEnum):
    """What the server can do to a request, besides answering it."""

    REFUSED_SECONDS = "refused_seconds"  # 429, Retry-After: 2
    REFUSED_DATE = "refused_date"  # 429, Retry-After: Wed, 21 Oct 2026 07:28:00 GMT
    UNAVAILABLE = "unavailable"  # 503 without a Retry-After
    UNAVAILABLE_SECONDS = "unavailable_seconds"  # 503, Retry-After: 2
    BROKEN = "broken"  # 500
    RESET = "reset"  # the connection is reset before an answer
    CUT_OFF = "cut_off"  # the connection dies halfway through the body
    SLOW = "slow"  # a good answer, late
    EMPTY_LIST = "empty_list"  # 200 []
    EMPTY_PATH = "empty_path"  # 200 {"data": null}
    NO_CONTENT = "no_content"  # 204
    HTML = "html"  # 200, a maintenance page
    TRUNCATED = "truncated"  # 200, half of the JSON, Content-Length agrees
    WRONG_KEYS = "wrong_keys"  # 200 {"result": …} where "data" was promised
    UNDECODABLE = "undecodable"  # 200, bytes that are not UTF-8
    NOT_A_NUMBER = "not_a_number"  # 200 {"data": {…, "population": NaN}}
    DEEP = "deep"  # 200, JSON nested 10,000 levels deep
    HUGE = "huge"  # 200, 50 MB
    BOMB = "bomb"  # 200, 50 MB that travel as 50 kB of gzip
    BROTLI = "brotli"  # a good answer, packed with brotli
    ZSTD = "zstd"  # a good answer, packed with zstd
    ZSTD_BOMB = "zstd_bomb"  # 200, 50 MB that travel as 2 kB of zstd
    NOT_PACKED = "not_packed"  # 200, plain JSON that calls itself gzip
    UNKNOWN_CODING = "unknown_coding"  # 200, a Content-Encoding that nobody knows
    OVERLONG = "overlong"  # a good answer, more bytes after its Content-Length
    TWO_LENGTHS = "two_lengths"  # 200 with two different Content-Length
    DRIP = "drip"  # a good answer, a few bytes at a time
    MOVED = "moved"  # 302 to where the good answer is
    IN_CIRCLES = "in_circles"  # 302 to itself
    TO_A_FILE = "to_a_file"  # 302 to file:///etc/passwd
    MISSING = "missing"  # 404
    GONE = "gone"  # 410
    DENIED = "denied"  # 403


OUTCOME_OF: Final[Mapping[Misbehaviour, Outcome]] = MappingProxyType(
    {
        Misbehaviour.REFUSED_SECONDS: Outcome.REFUSED,
        Misbehaviour.REFUSED_DATE: Outcome.REFUSED,
        Misbehaviour.UNAVAILABLE: Outcome.FAILED,
        Misbehaviour.UNAVAILABLE_SECONDS: Outcome.FAILED,
        Misbehaviour.BROKEN: Outcome.FAILED,
        Misbehaviour.RESET: Outcome.FAILED,
        Misbehaviour.CUT_OFF: Outcome.FAILED,
        Misbehaviour.SLOW: Outcome.DELIVERED,
        Misbehaviour.EMPTY_LIST: Outcome.EMPTY,
        Misbehaviour.EMPTY_PATH: Outcome.EMPTY,
        Misbehaviour.NO_CONTENT: Outcome.EMPTY,
        Misbehaviour.HTML: Outcome.MALFORMED,
        Misbehaviour.TRUNCATED: Outcome.MALFORMED,
        Misbehaviour.WRONG_KEYS: Outcome.MALFORMED,
        Misbehaviour.UNDECODABLE: Outcome.MALFORMED,
        Misbehaviour.NOT_A_NUMBER: Outcome.MALFORMED,
        Misbehaviour.DEEP: Outcome.MALFORMED,
        Misbehaviour.HUGE: Outcome.MALFORMED,
        Misbehaviour.BOMB: Outcome.MALFORMED,
        Misbehaviour.BROTLI: Outcome.DELIVERED,
        Misbehaviour.ZSTD: Outcome.DELIVERED,
        Misbehaviour.ZSTD_BOMB: Outcome.MALFORMED,
        Misbehaviour.NOT_PACKED: Outcome.MALFORMED,
        Misbehaviour.UNKNOWN_CODING: Outcome.MALFORMED,
        Misbehaviour.OVERLONG: Outcome.DELIVERED,
        Misbehaviour.TWO_LENGTHS: Outcome.FAILED,
        Misbehaviour.DRIP: Outcome.DELIVERED,
        Misbehaviour.MOVED: Outcome.DELIVERED,
        Misbehaviour.IN_CIRCLES: Outcome.FAILED,
        Misbehaviour.TO_A_FILE: Outcome.FAILED,
        Misbehaviour.MISSING: Outcome.MISSING,
        Misbehaviour.GONE: Outcome.MISSING,
        Misbehaviour.DENIED: Outcome.DENIED,
    }
)
NAMES_A_WAIT: Final = frozenset(
    {
        Misbehaviour.REFUSED_SECONDS,
        Misbehaviour.REFUSED_DATE,
        Misbehaviour.UNAVAILABLE_SECONDS,
    }
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of misbehaviour: how many ids show it, and for how long.

    The ids are `share` of all (at least one) or `exactly` so many. `failures` is the number of bad
    answers before the id heals; None means that it never does. `wait_seconds` is the delay that a
    Retry-After names, or how late a slow or dripping answer is complete.
    """

    name: str
    does: Misbehaviour
    share: float = 0.0
    exactly: int | None = None
    failures: int | None = 1
    wait_seconds: int = 1

    def count_ids(self, total: int) -> int:
        if self.exactly is not None:
            return min(self.exactly, total)
        return min(total, max(1, round(self.share * total))) if self.share else 0

    @property
    def final_outcome(self) -> Outcome:
        """What a client that repeats and sweeps properly ends with."""
        return OUTCOME_OF[self.does] if self.failures is None else Outcome.DELIVERED


@dataclass(frozen=True, slots=True)
class Profile:
    """A named character of the upstream.

    `max_per_second` is a real limit: requests beyond it, in any sliding second, get a 429 that
    names one second. `latency_seconds` delays every answer.
    """

    name: str
    about: str
    rules: tuple[Rule, ...] = ()
    seed: int = 1
    latency_seconds: float = 0.0
    max_per_second: int | None = None


_PASSING: Final = (
    Rule("429 with seconds", Misbehaviour.REFUSED_SECONDS, share=0.004, wait_seconds=2),
    Rule("429 with a date", Misbehaviour.REFUSED_DATE, share=0.002, wait_seconds=2),
    Rule("429 twice", Misbehaviour.REFUSED_SECONDS, share=0.001, failures=2),
    Rule("503 that passes", Misbehaviour.UNAVAILABLE, share=0.005),
    Rule("503 twice", Misbehaviour.UNAVAILABLE, share=0.002, failures=2),
    Rule("503 with seconds", Misbehaviour.UNAVAILABLE_SECONDS, share=0.001),
    Rule("reset", Misbehaviour.RESET, share=0.003),
    Rule("cut off", Misbehaviour.CUT_OFF, share=0.001),
    Rule("slow", Misbehaviour.SLOW, share=0.005, wait_seconds=1),
    # Five sends are a whole first pass (retry.attempts), so this one heals in the sweep.
    Rule("500 for a whole pass", Misbehaviour.BROKEN, share=0.0005, failures=5),
    Rule("[] once", Misbehaviour.EMPTY_LIST, share=0.002),
    Rule("204 once", Misbehaviour.NO_CONTENT, share=0.001),
    Rule("HTML once", Misbehaviour.HTML, share=0.002),
    Rule("truncated once", Misbehaviour.TRUNCATED, share=0.002),
)
_LASTING: Final = (
    Rule("[] always", Misbehaviour.EMPTY_LIST, share=0.001, failures=None),
    Rule("null at the path", Misbehaviour.EMPTY_PATH, share=0.0005, failures=None),
    Rule("204 always", Misbehaviour.NO_CONTENT, share=0.0005, failures=None),
    Rule("HTML always", Misbehaviour.HTML, share=0.0005, failures=None),
    Rule("truncated always", Misbehaviour.TRUNCATED, share=0.0005, failures=None),
    Rule("wrong keys", Misbehaviour.WRONG_KEYS, share=0.001, failures=None),
    Rule("404", Misbehaviour.MISSING, share=0.004, failures=None),
    Rule("410", Misbehaviour.GONE, share=0.0005, failures=None),
    Rule("the one 403", Misbehaviour.DENIED, exactly=1, failures=None),
    Rule("500 always", Misbehaviour.BROKEN, share=0.0005, failures=None),
    Rule("reset always", Misbehaviour.RESET, share=0.0002, failures=None),
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("calm", "Answers every request well and at once."),
            Profile(
                "unruly",
                "The demo's: about 4 % of the ids misbehave, most of them for a while only.",
                rules=_PASSING + _LASTING,
            ),
            Profile(
                "hostile",
                "Answers that hurt a careless client: huge, deep, packed oddly, leading astray.",
                rules=(
                    Rule("deep", Misbehaviour.DEEP, exactly=1, failures=None),
                    Rule("huge", Misbehaviour.HUGE, exactly=1, failures=None),
                    Rule("bomb", Misbehaviour.BOMB, exactly=1, failures=None),
                    Rule("undecodable", Misbehaviour.UNDECODABLE, exactly=2, failures=None),
                    Rule("NaN", Misbehaviour.NOT_A_NUMBER, exactly=2, failures=None),
                    Rule("cut off always", Misbehaviour.CUT_OFF, exactly=2, failures=None),
                    Rule("brotli", Misbehaviour.BROTLI, exactly=1, failures=None),
                    Rule("zstd", Misbehaviour.ZSTD, exactly=1, failures=None),
                    Rule("zstd bomb", Misbehaviour.ZSTD_BOMB, exactly=1, failures=None),
                    Rule("not packed", Misbehaviour.NOT_PACKED, exactly=1, failures=None),
                    Rule("unknown coding", Misbehaviour.UNKNOWN_CODING, exactly=1, failures=None),
                    Rule("overlong", Misbehaviour.OVERLONG, exactly=1, failures=None),
                    Rule("two lengths", Misbehaviour.TWO_LENGTHS, exactly=1, failures=None),
                    Rule("drip", Misbehaviour.DRIP, exactly=1, failures=None),
                    Rule("moved", Misbehaviour.MOVED, exactly=1, failures=None),
                    Rule("in circles", Misbehaviour.IN_CIRCLES, exactly=1, failures=None),
                    Rule("to a file", Misbehaviour.TO_A_FILE, exactly=1, failures=None),
                ),
            ),
            Profile(
                "limited",
                "Well-behaved, but refuses more than 100 requests in any second.",
                max_per_second=100,
            ),
        )
    }
)


def assign_rules(profile: Profile, count: int) -> dict[int, Rule]:
    """Which of the ids 1..count misbehave and how: the same in every process.

    The ids are taken in the order of their seeded hash, so each rule gets exactly its share (or
    one id, where the share is less than one).
    """
    shuffled = iter(
        sorted(range(1, count + 1), key=lambda number: hash_number(profile.seed, number))
    )
    assigned: dict[int, Rule] = {}
    for rule in profile.rules:
        for number in (next(shuffled, None) for _ in range(rule.count_ids(count))):
            if number is not None:
                assigned[number] = rule
    return assigned


def hash_number(seed: int, number: int) -> int:
    """A number that looks random and is the same in every process."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)

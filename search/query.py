"""What was asked: the parameters of a search and the little language of `q`.

`read_query` turns request parameters into a `SearchQuery` or raises `InvalidQuery` naming the
parameter. The text of `q` is never refused for its syntax: what is not understood is searched as
words, and a warning says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import TypeVar

from django.core.validators import slug_re
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ingest.outcomes import Outcome
from search import cursor as cursors
from search.errors import InvalidQuery
from search.text import fold_words

MAX_TEXT_CHARS = 400
# Measured: a fuzzy query of 32 words takes 0.1 s, of 100 half a second.
MAX_WORDS = 12
DEFAULT_SIZE = 20
MAX_SIZE = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    RECORD = "record"
    ERROR = "error"


class Sort(StrEnum):
    SCORE = "score"
    OLDEST = "time"
    NEWEST = "-time"


class Parts(StrEnum):
    """How much of an answer is wanted: a box that suggests hits pays for no counts beside them."""

    ALL = "all"
    HITS = "hits"


Member = TypeVar("Member", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class KeywordFilter:
    """One of `values` in the keyword `field` (or, negated, none of them)."""

    field: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """A status code within one of `ranges`, both ends included."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


Filter = KeywordFilter | StatusFilter


@dataclass(frozen=True, slots=True)
class ParsedText:
    """`q` taken to pieces. All words are folded.

    `surplus` are the words beyond MAX_WORDS: they need not match. `spans` is where the words and
    the surplus stand in `q`: everything else of it asks for something exact. `is_wordless`: it is
    not empty, but there is nothing in it to search for.
    """

    words: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    last_is_prefix: bool = False
    phrases: tuple[tuple[str, ...], ...] = ()
    excluded: tuple[tuple[str, ...], ...] = ()
    filters: tuple[Filter, ...] = ()
    is_wordless: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing in it asks for words (everything matches, but for filters)."""
        return not (self.words or self.phrases or self.excluded)


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A checked search. Times are µs since 1970: `since_us` ≤ occurred_at < `until_us`."""

    raw: str = ""
    text: ParsedText = field(default_factory=ParsedText)
    filters: tuple[Filter, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    sort: Sort = Sort.NEWEST
    size: int = DEFAULT_SIZE
    cursor: cursors.Cursor | None = None
    parts: Parts = Parts.ALL

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.text.warnings

    @property
    def fingerprint(self) -> str:
        """Names the question itself: the same for every page of its answer."""
        asked = [self.raw, repr(self.filters), self.since_us, self.until_us, self.sort]
        return hashlib.blake2s(json.dumps(asked).encode(), digest_size=8).hexdigest()


def read_query(parameters: Mapping[str, Sequence[str]]) -> SearchQuery:
    """The query that request parameters (`dict(request.GET.lists())`) ask for.

    Parameters: q, kind, source, outcome, status (comma lists), since, until, sort, size, cursor,
    parts; others are ignored. Raises InvalidQuery.
    """
    given = {name: values for name, values in parameters.items() if any(values)}

    def last(name: str) -> str:
        return given[name][-1] if name in given else ""

    raw = _check_text(last("q"))
    text = parse_text(raw)
    since_us, until_us = _read_time("since", last("since")), _read_time("until", last("until"))
    if since_us is not None and until_us is not None and since_us > until_us:
        raise InvalidQuery("since", _("“since” is later than “until”."))
    query = SearchQuery(
        raw=raw,
        text=text,
        filters=tuple(
            read(name, _split_list(name, given[name]))
            for name, read in FILTER_READERS.items()
            if name in given
        ),
        since_us=since_us,
        until_us=until_us,
        sort=read_member("sort", last("sort"), default=Sort.SCORE if raw.strip() else Sort.NEWEST),
        size=_read_size(last("size")),
        parts=read_member("parts", last("parts"), default=Parts.ALL),
    )
    if "cursor" not in given:
        return query
    return replace(query, cursor=cursors.read(last("cursor"), fingerprint=query.fingerprint))


# --- the parameters ---------------------------------------------------------------------------


def _check_text(raw: str) -> str:
    if len(raw) > MAX_TEXT_CHARS:
        raise InvalidQuery(
            "q",
            _("At most %(most)d characters; these are %(count)d.")
            % {"most": MAX_TEXT_CHARS, "count": len(raw)},
        )
    if "\x00" in raw:
        raise InvalidQuery("q", _("A null byte cannot be searched for."))
    return raw


def _split_list(name: str, values: Iterable[str]) -> tuple[str, ...]:
    items = (item.strip() for value in values for item in value.split(","))
    found = tuple(item for item in items if item)
    if not found:
        raise InvalidQuery(name, _("A value, or several separated by commas."))
    return found


def _read_choice(name: str, values: tuple[str, ...], known: Iterable[str]) -> Filter:
    choices = list(known)
    for value in values:
        if value not in choices:
            raise InvalidQuery(
                name,
                _("“%(value)s” is not one of %(known)s.")
                % {"value": value[:80], "known": ", ".join(choices)},
            )
    return KeywordFilter(name, tuple(sorted(set(values))))


def _read_kind(name: str, values: tuple[str, ...]) -> Filter:
    return _read_choice(name, values, [kind.value for kind in Kind])


def _read_outcome(name: str, values: tuple[str, ...]) -> Filter:
    return _read_choice(name, values, [str(value) for value in Outcome.values])


def _read_source(name: str, values: tuple[str, ...]) -> Filter:
    for value in values:
        if not slug_re.match(value):
            raise InvalidQuery(
                name, _("“%(value)s” is not the slug of a source.") % {"value": value[:80]}
            )
    return KeywordFilter(name, tuple(sorted(set(values))))


_STATUS = re.compile(r"(\d{3})(?:\.\.(\d{3}))?|(\d)xx", re.ASCII | re.IGNORECASE)


def _read_status(name: str, values: tuple[str, ...]) -> Filter:
    return StatusFilter(tuple(sorted({_read_status_range(name, value) for value in values})))


def _read_status_range(name: str, value: str) -> tuple[int, int]:
    match = _STATUS.fullmatch(value)
    if match:
        low, high, hundred = match.groups()
        if hundred:
            return int(hundred) * 100, int(hundred) * 100 + 99
        if int(low) <= int(high or low):
            return int(low), int(high or low)
    raise InvalidQuery(
        name,
        _("“%(value)s” is not a status: write 404, 5xx or 500..503.") % {"value": value[:80]},
    )


FILTER_READERS: dict[str, Callable[[str, tuple[str, ...]], Filter]] = {
    "kind": _read_kind,
    "source": _read_source,
    "outcome": _read_outcome,
    "status": _read_status,
}


def _read_time(name: str, value: str) -> int | None:
    """Microseconds since 1970. A date is its UTC midnight; a time without a zone is UTC."""
    if not value:
        return None
    # "+00:00" arrives as " 00:00" from clients that do not encode the plus sign.
    value = re.sub(r" (\d\d:?\d\d)$", r"+\1", value) if "T" in value else value
    try:
        if len(value) == len("2026-01-01"):
            moment = datetime.combine(date.fromisoformat(value), time(), UTC)
        else:
            moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return to_microseconds(moment)
    except (ValueError, OverflowError):
        raise InvalidQuery(
            name,
            _("“%(value)s” is not a date (2026-01-31) or a time (2026-01-31T12:00:00Z).")
            % {"value": value[:80]},
        ) from None


def to_microseconds(moment: datetime) -> int:
    """Exact, unlike `timestamp()`, which is a float."""
    elapsed = moment - EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def read_member(name: str, value: str, *, default: Member) -> Member:
    """The member of `default`'s own kind that is called `value`. Raises InvalidQuery."""
    members = type(default)
    try:
        return members(value) if value else default
    except ValueError:
        raise InvalidQuery(
            name,
            _("“%(value)s” is not one of %(known)s.")
            % {"value": value[:80], "known": ", ".join(members)},
        ) from None


def _read_size(value: str) -> int:
    if not value:
        return DEFAULT_SIZE
    if re.fullmatch(r"\d{1,3}", value, re.ASCII) and 1 <= int(value) <= MAX_SIZE:
        return int(value)
    raise InvalidQuery("size", _("A whole number from 1 to %(most)d.") % {"most": MAX_SIZE})


# --- the language of q ------------------------------------------------------------------------

# -word  -"a phrase"  "a phrase"  field:value  field:"value"; anything else is words.
_ITEM = re.compile(
    r"""(?P<minus>-?)(?:(?P<field>[A-Za-z]+):(?=[^\s]))?(?:"(?P<phrase>[^"]*)"|(?P<bare>[^\s"]+))"""
    r"""|(?P<stray>")"""
)
_OPERATORS = re.compile(r"[*?~^(){}\[\]\\|!+<>=]|&&|\b(?:AND|OR|NOT)\b")


def _is_number(match: re.Match[str]) -> bool:
    """Whether the minus belongs to a number, as in “exit code -1” or “-0500”."""
    return not match["field"] and (match["bare"] or "").isdecimal()


def parse_text(raw: str) -> ParsedText:
    """The words, phrases, exclusions and filters of `raw`. Never fails."""
    return _Parser(raw).parse()


class _Parser:
    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.words: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.phrases: list[tuple[str, ...]] = []
        self.excluded: list[tuple[str, ...]] = []
        self.filters: list[Filter] = []
        self.warnings: list[str] = []
        self.plain: list[str] = []
        self.last_is_prefix = False

    def parse(self) -> ParsedText:
        for match in _ITEM.finditer(self.raw):
            self.last_is_prefix = False
            if match["stray"]:
                self.warnings.append(_("A quotation mark without its partner was ignored."))
            elif not self._read_filter(match):
                self._read_words(match)
        self._warn_of_operators()
        surplus = self._cut_surplus()
        text = ParsedText(
            words=tuple(self.words),
            surplus=surplus,
            spans=tuple(self.spans),
            last_is_prefix=self.last_is_prefix and bool(self.words),
            phrases=tuple(self.phrases),
            excluded=tuple(self.excluded),
            filters=tuple(self.filters),
        )
        is_wordless = bool(self.raw.strip()) and text.is_empty and not text.filters
        if is_wordless:
            self.warnings.append(_("There is no word to search for in this text."))
        warnings = tuple(dict.fromkeys(self.warnings))
        return replace(text, is_wordless=is_wordless, warnings=warnings)

    def _read_filter(self, match: re.Match[str]) -> bool:
        name = (match["field"] or "").lower()
        if name not in FILTER_READERS:
            return False
        value = match["phrase"] if match["phrase"] is not None else match["bare"]
        try:
            found = FILTER_READERS[name](name, _split_list(name, [value]))
        except InvalidQuery as error:
            self.warnings.append(
                _("%(problem)s Searched as words.") % {"problem": error.fields[name][0]}
            )
            return False
        self.filters.append(replace(found, negated=bool(match["minus"])))
        return True

    def _read_words(self, match: re.Match[str]) -> None:
        prefix = f"{match['field']}:" if match["field"] else ""
        quoted = match["phrase"] is not None and not prefix
        words = tuple(fold_words(prefix + (match["phrase"] or match["bare"] or "")))
        if not quoted:
            self.plain.append(match["bare"] or "")
        if not words:
            return
        if match["minus"] and not _is_number(match):
            self.excluded.append(words)
        elif quoted:
            self.phrases.append(words)
        else:
            self.words.extend(words)
            self.spans.append(match.span())
            self.last_is_prefix = match.end() == len(self.raw)

    def _warn_of_operators(self) -> None:
        signs = list(dict.fromkeys(_OPERATORS.findall(" ".join(self.plain))))
        if any(plain == "-" for plain in self.plain):
            signs.append("-")
        if signs:
            self.warnings.append(
                _("No special meaning here, searched as plain words: %(signs)s")
                % {"signs": " ".join(signs)}
            )

    def _cut_surplus(self) -> tuple[str, ...]:
        """Keeps the first MAX_WORDS words; gives those that are only among the others.

        Phrases and exclusions are exact and cheap, and a part of one says something else.
        """
        surplus = self.words[MAX_WORDS:]
        if not surplus:
            return ()
        self.words = self.words[:MAX_WORDS]
        self.last_is_prefix = False
        self.warnings.append(
            ngettext(
                "Only the first %(most)d words decide what is found; %(count)d more only ranks it, "
                "as it is spelled.",
                "Only the first %(most)d words decide what is found; %(count)d more only rank it, "
                "as they are spelled.",
                len(surplus),
            )
            % {"most": MAX_WORDS, "count": len(surplus)}
        )
        known = set(self.words)
        return tuple(word for word in dict.fromkeys(surplus) if word not in known)

"""One reply → one outcome, by the rules of docs/architecture.md. Pure, but for the clock that the
date of a Retry-After is read by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.utils import timezone

from ingest.configuration import SourceConfiguration
from ingest.fetch.answers import Reply, Verdict
from ingest.fetch.backoff import read_retry_after
from ingest.fetch.reading import Malformed, Reading, RecordReader, decode_body
from ingest.outcomes import Outcome
from ingest.secrets import KEPT_CHARACTERS, Redactor

FIRST_CHARACTERS = 200
REASON_CHARACTERS = 300
# How far into a body the words of a block are looked for.
MARKED_BYTES = 100_000
# Asking again at once may help only with these (RFC 9110, RFC 6585, RFC 8470).
REPEATED_STATUS = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Classifier:
    """Reads replies as one source's configuration understands them; built once per slice."""

    reader: RecordReader
    markers: re.Pattern[str] | None
    redact: Redactor

    @classmethod
    def of(cls, configuration: SourceConfiguration, *, redact: Redactor) -> Classifier:
        words = "|".join(re.escape(marker) for marker in configuration.block.markers)
        return cls(
            reader=RecordReader.of(
                configuration.records, max_body_bytes=configuration.limits.max_body_bytes
            ),
            markers=re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.I) if words else None,
            redact=redact,
        )

    def classify(self, reply: Reply) -> Verdict:
        if reply.failure:
            return self._fail(reply)
        status = reply.status or 0
        if 200 <= status < 300:
            return self._read(reply)
        return self._name_error(reply, status)

    def _read(self, reply: Reply) -> Verdict:
        if reply.is_too_large:
            return self._malformed(
                reply, Malformed("too_large", f"the body is larger than {len(reply.body):,} bytes")
            )
        if reply.coding_fault:
            fault = Malformed("undecodable", "", quoted=reply.coding_fault)
            return self._malformed(reply, fault)
        body, charset = reply.body, reply.charset
        scrub = self.redact.scrub if self.redact.may_be_in(body, charset) else None
        try:
            # A 204 has no content, whatever follows it (RFC 9110 §15.3.5).
            reading = self.reader.read(b"" if reply.status == 204 else body, charset, scrub=scrub)
        except Malformed as fault:
            return self._malformed(reply, self._name_other_type(reply, fault))
        if reading.fault_count:
            return self._malformed(reply, reading.faults[0], reading)
        if not reading.records:
            return Verdict(
                outcome=Outcome.EMPTY,
                error="empty",
                error_type="Empty Answer",
                evidence=self._evidence(reply, "the answer holds no record"),
                # `{"blocked": []}`: the name says what there is none of, and nothing about us.
                block_marker=self._find_marker(reply, drop=_NAMES_OF_NOTHING),
            )
        return Verdict(
            outcome=Outcome.DELIVERED,
            records=reading.records,
            evidence=_warn_of_echo(reading) if reading.scrubbed else None,
        )

    def _name_other_type(self, reply: Reply, fault: Malformed) -> Malformed:
        if fault.kind == "not_json" and _is_html(reply):
            return Malformed("html", f"an HTML page instead of JSON ({fault.reason})")
        return fault

    def _malformed(self, reply: Reply, fault: Malformed, reading: Reading | None = None) -> Verdict:
        evidence = self._evidence(reply, fault.tell(self._show))
        evidence["rule"] = fault.kind
        if fault.index is not None:
            evidence["index"] = fault.index
        if reading and reading.scrubbed:
            evidence |= _warn_of_echo(reading)
        if reading and reading.fault_count > 1:
            evidence["faults"] = [
                {
                    "index": each.index,
                    "rule": each.kind,
                    "reason": each.tell(self._show),
                }
                for each in reading.faults
            ]
            evidence["fault_count"] = reading.fault_count
        return Verdict(
            outcome=Outcome.MALFORMED,
            error=fault.kind,
            error_type="Malformed Answer",
            evidence=evidence,
            records=reading.records if reading else [],
            block_marker="" if _is_open(reading) else self._find_marker(reply),
        )

    def _name_error(self, reply: Reply, status: int) -> Verdict:
        outcome = {
            404: Outcome.MISSING,
            410: Outcome.MISSING,
            401: Outcome.DENIED,
            403: Outcome.DENIED,
            429: Outcome.REFUSED,
        }.get(status, Outcome.FAILED)
        return Verdict(
            outcome=outcome,
            error=f"http_{status}",
            error_type="HTTP Error",
            evidence=self._evidence(reply, f"{status} {_phrase(status)}".strip()),
            # "Temporarily blocked for 1 second": who says when to come back has not shut us out.
            block_marker="" if status == 429 and _names_delay(reply) else self._find_marker(reply),
        )

    def _fail(self, reply: Reply) -> Verdict:
        size = REASON_CHARACTERS if reply.failure in _QUOTING else KEPT_CHARACTERS
        return Verdict(
            outcome=Outcome.FAILED,
            error=reply.failure,
            error_type=_FAILURE_TYPES.get(reply.failure, "Connection Error"),
            evidence=self._evidence(reply, self._show(reply.reason, size)),
        )

    def _find_marker(self, reply: Reply, *, drop: re.Pattern[str] | None = None) -> str:
        """The word that says that access is blocked; what `drop` matches is left out."""
        status = reply.status or 0
        if self.markers is None or status in {404, 410} or status >= 500:
            return ""
        text = _begin_of(reply, MARKED_BYTES)
        found = self.markers.search(drop.sub("", text) if drop else text)
        return found[0] if found else ""

    def _evidence(self, reply: Reply, reason: str) -> dict[str, Any]:
        """`reason` is fit to be shown."""
        evidence: dict[str, Any] = {"reason": reason}
        if reply.status is not None:
            evidence["status"] = reply.status
            evidence["content_type"] = self._show(reply.content_type, 200)
            evidence["first_characters"] = self._show_begin(reply)
            if reply.retry_after is not None:
                evidence["retry_after"] = self._show(reply.retry_after, 100)
        return evidence

    def _show(self, text: str, size: int) -> str:
        """All that evidence quotes of an answer passes here, or through `_show_begin`."""
        is_whole = len(text) < KEPT_CHARACTERS
        return self.redact.shorten(_storable(text), size, is_whole=is_whole)

    def _show_begin(self, reply: Reply) -> str:
        # Enough for a secret that begins within the first characters to end in.
        size = 4 * (FIRST_CHARACTERS + self.redact.longest)
        is_whole = len(reply.body) <= size and not (reply.is_too_large or reply.failure)
        first = _storable(_begin_of(reply, size))
        return self.redact.shorten(first, FIRST_CHARACTERS, is_whole=is_whole)


def _is_open(reading: Reading | None) -> bool:
    """Whether an answer comes from a source that is open: it holds records.

    Good ones, or else such as have their key, whatever the schema says about the rest of them. An
    error that came in their place is none: it has no key.
    """
    if reading is None:
        return False
    return bool(reading.records) or reading.violating == reading.fault_count


def _names_delay(reply: Reply) -> bool:
    return read_retry_after(reply.retry_after, now=timezone.now()) is not None


_NAMES_OF_NOTHING = re.compile(
    r'"(?:[^"\\]|\\.)*+"\s*:\s*(?:\[\s*\]|\{\s*\}|null\b|false\b|0\b|"")', re.S
)


def _warn_of_echo(reading: Reading) -> dict[str, Any]:
    return {
        "warning": "the upstream sends back a secret of this source; it was replaced by ***",
        "scrubbed_records": reading.scrubbed,
    }


_FAILURE_TYPES = {
    "timeout": "Timeout",
    "dns": "DNS Error",
    "tls": "TLS Error",
    "refused_address": "Refused Address",
    "redirect_loop": "Redirect Error",
    "redirect": "Redirect Error",
    "unsendable": "Invalid Request",
    "protocol": "Protocol Error",
    "proxy": "Proxy Error",
    "broken_off": "Broken Transfer",
}
# Their reasons quote what the upstream sent.
_QUOTING = frozenset({"protocol", "broken_off"})


def is_repeated(verdict: Verdict, status: int | None) -> bool:
    """Whether a further send in the same pass may help: 408, 425, 429, 5xx, dead connections."""
    if verdict.outcome == Outcome.REFUSED:
        return True
    if verdict.outcome != Outcome.FAILED:
        return False
    if verdict.error.startswith("http_") and status is not None:
        return status in REPEATED_STATUS or status >= 500
    return verdict.error not in {"refused_address", "redirect", "redirect_loop", "unsendable"}


def _is_html(reply: Reply) -> bool:
    begin = reply.body[:200].lstrip().lower()
    return "html" in reply.content_type or begin.startswith((b"<!doctype html", b"<html"))


def _begin_of(reply: Reply, size: int) -> str:
    """The first bytes as text, however wrong their charset is."""
    try:
        return decode_body(reply.body[:size], reply.charset, errors="replace")
    except Malformed:
        return reply.body[:size].decode("utf-8", "replace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _storable(text: str) -> str:
    """Without what no database text can hold."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()

"""The values that travel through one slice: what came back, and what it means.

Named tuples: there are three of them for each request, and a frozen dataclass takes four times as
long to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ingest.fetch.reading import ParsedRecord
from ingest.outcomes import Outcome


class Reply(NamedTuple):
    """What one send brought: an HTTP answer, or the error that came instead.

    `body` is decoded from its content encoding and never longer than `max_body_bytes`;
    `is_too_large` says that reading stopped there. `failure` is a stable kind such as `timeout`,
    `reason` its text for people; with one, `status` may still be set (the transfer broke off).
    `coding_fault` says why the body cannot be unpacked from its content coding.
    """

    status: int | None = None
    content_type: str = ""
    charset: str | None = None
    retry_after: str | None = None
    body: bytes = b""
    is_too_large: bool = False
    coding_fault: str = ""
    failure: str = ""
    reason: str = ""
    latency_ms: float = 0.0


class Verdict(NamedTuple):
    """What a reply means: its outcome, why, and the records that it delivered.

    `block_marker` is the word, if any, that says that access is blocked.
    """

    outcome: Outcome
    error: str = ""
    error_type: str = ""
    evidence: dict[str, Any] | None = None
    records: Sequence[ParsedRecord] = ()
    block_marker: str = ""


class Answer(NamedTuple):
    """A classified send, as the flush writes it. `due_at` is set where the row is sent again.

    `weight_bytes` is about what it takes up in memory until then.
    """

    request_id: int
    run_id: int
    position: int
    key: str
    url: str
    attempts: int
    pass_attempts: int
    backoff_step: int
    verdict: Verdict
    status_code: int | None
    latency_ms: float
    answered_at: datetime
    due_at: datetime | None
    weight_bytes: int = 0

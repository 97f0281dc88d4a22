"""The values that travel through one slice: what came back, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ingest.fetch.reading import ParsedRecord
from ingest.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """What one send brought: an HTTP answer, or the error that came instead.

    `body` is decoded from its content encoding and never longer than `max_body_bytes`;
    `is_too_large` says that reading stopped there. `failure` is a stable kind such as `timeout`,
    `reason` its text for people; with one, `status` may still be set (the transfer broke off).
    """

    status: int | None = None
    content_type: str = ""
    charset: str | None = None
    retry_after: str | None = None
    body: bytes = b""
    is_too_large: bool = False
    failure: str = ""
    reason: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply means: its outcome, why, and the records that it delivered."""

    outcome: Outcome
    error: str = ""
    error_type: str = ""
    evidence: dict[str, Any] | None = None
    records: list[ParsedRecord] = field(default_factory=list)
    has_block_marker: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A classified send, as the flush writes it. `due_at` is set where the row is sent again."""

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

"""The log of what this server answered with an error; fetch errors are written by the flush."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote_plus

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.utils import timezone

from ingest.configuration import SECRET_NAME
from ingest.models import ErrorLog
from ingest.secrets import REDACTED

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 10_000
MAX_PATH_CHARS = 2_000
MAX_TRACE_CHARS = 50_000

# ?name=value in an address, wherever it stands in a text
_PAIR = re.compile(r"([?&;])([^=&;\s?#\"'<>]{1,200})=([^&;\s#\"'<>]*)")
_BEARER = re.compile(r"\b(Bearer|Basic|Token)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_USER_INFO = re.compile(r"(://)[^/\s@\"']+@")
# Of the password reset and the like: the token is part of the path.
_RESET = re.compile(r"(/reset/[^/\s]+/)[^/\s]+")


def record_server_error(
    *,
    error_type: str,
    status_code: int,
    message: str,
    path: str,
    user: AbstractBaseUser | AnonymousUser | None,
    correlation_id: str,
    trace: str = "",
) -> None:
    """Write one row of the error log for one failed answer of this server.

    Call it after the view's transaction has ended: a second writer inside an SQLite transaction
    waits for itself, and a rollback would take the row along. Never raises: what cannot be written
    goes to the process log. Secrets in addresses are replaced by `***`.
    """
    try:
        known = user if user is not None and user.is_authenticated else None
        with transaction.atomic():
            ErrorLog.objects.create(
                error_type=_clean(error_type, 200),
                status_code=status_code,
                message=_clean(redact_text(message), MAX_MESSAGE_CHARS),
                path=_clean(redact_text(path), MAX_PATH_CHARS),
                trace=_clean(redact_text(trace), MAX_TRACE_CHARS),
                user_id=known.pk if known else None,
                correlation_id=_clean(correlation_id, 64),
                occurred_at=timezone.now(),
            )
    except Exception:  # the boundary: an answer must not fail because its error was not logged
        logger.exception("The error log could not be written: %s %s", status_code, error_type)


def redact_text(text: str) -> str:
    """`text` without what looks like a secret: token-like parameters, bearer tokens, users."""
    text = _PAIR.sub(_redact_pair, text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    text = _JWT.sub(REDACTED, text)
    text = _RESET.sub(rf"\1{REDACTED}", text)
    return _USER_INFO.sub(rf"\1{REDACTED}@", text)


def _redact_pair(match: re.Match[str]) -> str:
    mark, name, value = match.groups()
    return f"{mark}{name}={REDACTED if SECRET_NAME.search(unquote_plus(name)) else value}"


def _clean(text: str, max_chars: int) -> str:
    """What every database takes: no U+0000, no lone surrogates, not too long."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()[:max_chars]

"""Who may find what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q

from ingest.changes import State
from ingest.models import Source
from search.plan import Visibility

User = AbstractBaseUser | AnonymousUser

# What people may see changes with the sources (and `is_staff`) alone, so it is remembered under the
# token of the sources: exact, and one query less per search.
_MOST_REMEMBERED = 1_000
_remembered: dict[tuple[int, bool, int], _Sources] = {}


@dataclass(frozen=True, slots=True)
class _Sources:
    """The user's own by slug with the time of their making, and the archived ones."""

    own: tuple[tuple[str, datetime], ...]
    archived: tuple[str, ...]


def read_visibility(user: User, state: State) -> Visibility:
    """What `user` may find in an index that stands where `state` says."""
    is_staff = bool(getattr(user, "is_staff", False))
    sources = _recall(user, is_staff=is_staff, token=state.sources_token)
    return Visibility(
        all_errors=is_staff,
        # The slug of an archived source is free at once, and until the index has followed, what
        # bears that slug there is somebody else's.
        own_sources=tuple(slug for slug, made_at in sources.own if made_at < state.as_of),
        archived_sources=sources.archived,
    )


def _recall(user: User, *, is_staff: bool, token: int | None) -> _Sources:
    if token is None or user.pk is None:
        return _read(user, is_staff=is_staff)
    key = (user.pk, is_staff, token)
    found = _remembered.get(key)
    if found is None:
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        found = _remembered[key] = _read(user, is_staff=is_staff)
    return found


def _read(user: User, *, is_staff: bool) -> _Sources:
    matters = Q(archived_at__isnull=False)
    if user.is_authenticated and not is_staff:
        matters |= Q(owner_id=user.pk)
    rows = list(
        Source.objects.filter(matters)
        .order_by("slug")
        .values_list("slug", "created_at", "archived_at")
    )
    return _Sources(
        own=tuple((slug, made_at) for slug, made_at, archived_at in rows if archived_at is None),
        archived=tuple(slug for slug, _, archived_at in rows if archived_at is not None),
    )

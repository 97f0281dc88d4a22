"""Who may do what with sources and what hangs on them.

Everyone who is signed in reads; owners and staff write.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from ingest.models import Job, Run, Source


def may_write(user: AbstractBaseUser | AnonymousUser, source: Source) -> bool:
    """Whether `user` may change `source`, start and stop its runs."""
    if not (user.is_authenticated and user.is_active):
        return False
    return bool(getattr(user, "is_staff", False)) or source.owner_id == user.pk


class IsOwnerOrReadOnly(BasePermission):
    """Reading is open to all who passed the view's other permissions; writing to owner and staff.

    Works on a Source and on whatever has a `source`.
    """

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        return request.method in SAFE_METHODS or may_write(request.user, _source_of(obj))


class IsStaffOrOwner(BasePermission):
    """For what only the owner of the source and staff may even see."""

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        return may_write(request.user, _source_of(obj))


def _source_of(obj: Any) -> Source:
    source = obj if isinstance(obj, Source) else obj.source
    if not isinstance(source, Source):
        raise TypeError(f"{type(obj).__name__} belongs to no source.")
    return source


def visible_runs() -> QuerySet[Run]:
    """Runs of visible sources, newest first, each with its source.

    Configurations are read where they are asked for only: a plan may hold millions of values.
    """
    runs = Run.objects.filter(source__archived_at__isnull=True).select_related("source")
    return runs.defer("configuration", "source__configuration", "source__sealed_secrets")


def visible_jobs(user: AbstractBaseUser | AnonymousUser) -> QuerySet[Job]:
    """Jobs that `user` asked for or that run on `user`'s sources; all of them for staff.

    Runs of an archived source are gone with it.
    """
    jobs = Job.objects.filter(run__source__archived_at__isnull=True)
    if getattr(user, "is_staff", False):
        return jobs
    return jobs.filter(Q(user=user.pk) | Q(run__source__owner=user.pk))

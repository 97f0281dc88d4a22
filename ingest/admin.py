"""The tables of ingestion in Django's admin. What proves something (ledger, log) is read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from ingest.models import ErrorLog, Job, Outbox, Record, Request, Run, Source

if TYPE_CHECKING:
    AnyModelAdmin = admin.ModelAdmin[Any]
else:
    AnyModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(AnyModelAdmin):
    """To look at; what is written here is written by the machinery alone."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Source)
class SourceAdmin(ReadOnlyAdmin):
    """Sources are written through the API and the pages, which check configurations and secrets."""

    list_display = ("slug", "name", "owner", "created_at", "updated_at", "archived_at")
    list_filter = (("archived_at", admin.EmptyFieldListFilter), "created_at")
    search_fields = ("slug", "name", "owner__email")
    list_select_related = ("owner",)
    fields = (
        *("slug", "name", "owner", "configuration"),
        *("created_at", "updated_at", "archived_at"),
    )


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = (
        *("id", "source", "state", "planned_total", "delivered_count"),
        *("started_by", "started_at", "finished_at"),
    )
    list_filter = ("state", "source", "started_at")
    search_fields = ("source__slug",)
    list_select_related = ("source", "started_by")


@admin.register(Request)
class RequestAdmin(ReadOnlyAdmin):
    list_display = ("key", "run", "outcome", "attempts", "status_code", "error", "finished_at")
    list_filter = ("outcome",)
    search_fields = ("=key", "=run__id")
    list_select_related = ("run",)
    raw_id_fields = ("run", "slice")


@admin.register(Record)
class RecordAdmin(ReadOnlyAdmin):
    list_display = ("key", "source", "title", "outcome", "occurred_at", "updated_at")
    list_filter = ("source", "occurred_at")
    search_fields = ("=key", "title")
    list_select_related = ("source",)


@admin.register(ErrorLog)
class ErrorLogAdmin(ReadOnlyAdmin):
    list_display = (
        *("error_type", "status_code", "occurred_at", "message"),
        *("url", "path", "source", "user"),
    )
    list_filter = ("error_type", "status_code", "occurred_at", "outcome", "source")
    search_fields = ("error_type", "message", "url", "path", "=correlation_id")
    list_select_related = ("source", "user")
    date_hierarchy = "occurred_at"


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = (
        *("id", "kind", "user", "state", "done", "total"),
        *("created_at", "started_at", "finished_at"),
    )
    list_filter = ("kind", "state", "created_at")
    search_fields = ("user__email", "message")
    list_select_related = ("user",)


@admin.register(Outbox)
class OutboxAdmin(ReadOnlyAdmin):
    list_display = ("kind", "object_id", "queued_at", "attempts", "parked_at", "reason")
    list_filter = ("kind", ("parked_at", admin.EmptyFieldListFilter))
    search_fields: ClassVar = ("=object_id",)

"""The tables of ingestion in Django's admin. What proves something (ledger, log) is read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from ingest import outbox
from ingest.models import (
    ErrorLog,
    EventKind,
    Job,
    Outbox,
    Record,
    Request,
    Run,
    RunEvent,
    Source,
)
from ingest.templatetags.ingest import moment

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

    list_display = (
        *("slug", "name", "owner", "schedule"),
        *("created_at", "updated_at", "archived_at"),
    )
    list_filter = (("archived_at", admin.EmptyFieldListFilter), "created_at")
    search_fields = ("slug", "name", "owner__email")
    list_select_related = ("owner",)
    fields = (
        *("slug", "name", "owner", "configuration"),
        *("created_at", "updated_at", "archived_at"),
    )

    @admin.display(description=_("schedule"))
    def schedule(self, source: Source) -> str:
        return source.configuration.get("schedule") or "–"


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = (
        *("id", "source", "state", "why_ended", "planned_total", "delivered_count"),
        *("alerts", "started_by", "started_at", "finished_at"),
    )
    list_filter = ("state", "source", "started_at")
    search_fields = ("source__slug",)
    list_select_related = ("source", "started_by")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        alerts = RunEvent.objects.filter(run=OuterRef("pk"), kind=EventKind.ALERT)
        rows: QuerySet[Run] = super().get_queryset(request).annotate(has_alert=Exists(alerts))
        return rows

    @admin.display(description=_("alert"), boolean=True)
    def alerts(self, run: Any) -> bool:
        return bool(run.has_alert)


@admin.register(RunEvent)
class RunEventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "run", "seq", "kind", "state", "message")
    list_filter = ("kind", "state", "created_at")
    search_fields = ("=run__id", "run__source__slug", "message")
    list_select_related = ("run",)
    date_hierarchy = "created_at"
    raw_id_fields = ("run",)


@admin.register(Request)
class RequestAdmin(ReadOnlyAdmin):
    list_display = ("key", "run", "outcome", "attempts", "status_code", "error", "finished_at")
    list_filter = ("outcome",)
    search_fields = ("=key", "=run__id")
    list_select_related = ("run",)
    raw_id_fields = ("run", "slice")


@admin.register(Record)
class RecordAdmin(ReadOnlyAdmin):
    list_display = ("key", "source", "title", "outcome", "time", "updated_at")
    list_filter = ("source", "occurred_at")
    search_fields = ("=key", "title")
    list_select_related = ("source",)
    exclude = ("occurred_at",)
    readonly_fields = ("time",)

    @admin.display(description=_("time"), ordering="occurred_at")
    def time(self, record: Record) -> str:
        # An upstream's "no end" (year 9999) has no time in zones east of Greenwich.
        return moment(record.occurred_at)


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
    """What waits for the index, and what was parked because the engine refuses it."""

    list_display = ("kind", "object_id", "queued_at", "parked_at", "reason")
    list_filter = ("kind", ("parked_at", admin.EmptyFieldListFilter))
    search_fields: ClassVar = ("=object_id", "reason")
    actions = ("try_again",)

    @admin.action(description=_("Try to index the selected parked documents again"))
    def try_again(self, request: HttpRequest, rows: QuerySet[Outbox]) -> None:
        count = outbox.try_parked_again(rows)
        self.message_user(
            request,
            ngettext(
                "%(count)d document is tried again.", "%(count)d documents are tried again.", count
            )
            % {"count": count},
        )

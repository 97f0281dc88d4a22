"""The tables of the pages: sources, runs, jobs."""

from __future__ import annotations

from typing import ClassVar

import django_tables2 as tables
from django.utils.functional import Promise as StrPromise
from django.utils.translation import gettext_lazy as _

from ingest.models import Job, Run, Source

_ATTRS = {"class": "table table-hover align-middle mb-0"}
_WIDE_ONLY = {
    "th": {"class": "d-none d-md-table-cell"},
    "td": {"class": "d-none d-md-table-cell"},
}
_NUMERIC = {"th": {"class": "text-end"}, "td": {"class": "text-end tabular"}}


def _moment_column(title: StrPromise) -> tables.TemplateColumn:
    return tables.TemplateColumn(
        "{% load ingest %}{{ value|moment }}",
        verbose_name=title,
        empty_values=(),
    )


class SourceTable(tables.Table):  # type: ignore[misc]
    slug = tables.Column(
        verbose_name=_("Source"), linkify=("ingest:source", {"slug": tables.A("slug")})
    )
    name = tables.Column(verbose_name=_("Name"), attrs=_WIDE_ONLY)
    owner = tables.Column(
        verbose_name=_("Owner"),
        accessor="owner__email",
        order_by="owner__email",
        attrs=_WIDE_ONLY,
    )
    last_run = tables.TemplateColumn(
        template_name="ingest/columns/last_run.html", verbose_name=_("Latest run"), orderable=False
    )
    action = tables.TemplateColumn(
        template_name="ingest/columns/start.html",
        verbose_name="",
        orderable=False,
        attrs={"td": {"class": "text-end"}},
    )

    class Meta:
        model: ClassVar = Source
        fields: ClassVar = ("slug", "name", "owner", "last_run", "action")
        order_by: ClassVar = "slug"
        attrs: ClassVar = _ATTRS
        empty_text: ClassVar = _("There is no source yet.")


class RunTable(tables.Table):  # type: ignore[misc]
    """Runs; the view has given each of the page's runs its `bar` and `rate`."""

    id = tables.Column(verbose_name=_("Run"), linkify=("ingest:run", {"run_id": tables.A("pk")}))
    source = tables.Column(
        verbose_name=_("Source"),
        accessor="source__slug",
        linkify=("ingest:source", {"slug": tables.A("source__slug")}),
    )
    state = tables.TemplateColumn(
        template_name="ingest/columns/state.html", verbose_name=_("State")
    )
    outcomes = tables.TemplateColumn(
        template_name="ingest/columns/outcomes.html",
        verbose_name=_("Outcomes"),
        orderable=False,
        empty_values=(),
    )
    planned_total = tables.TemplateColumn(
        "{% load ingest %}{{ value|number }}", verbose_name=_("Planned"), attrs=_NUMERIC
    )
    rate = tables.TemplateColumn(
        "{% load ingest %}{{ value|number }}",
        verbose_name=_("Per second"),
        orderable=False,
        empty_values=(),
        attrs=_NUMERIC,
    )
    started_at = _moment_column(_("Started"))
    finished_at = _moment_column(_("Finished"))

    class Meta:
        model: ClassVar = Run
        fields: ClassVar = (
            *("id", "source", "state", "outcomes", "planned_total", "rate"),
            *("started_at", "finished_at"),
        )
        order_by: ClassVar = "-id"
        attrs: ClassVar = _ATTRS
        empty_text: ClassVar = _("There is no run yet.")


class JobTable(tables.Table):  # type: ignore[misc]
    id = tables.Column(verbose_name=_("Job"))
    kind = tables.TemplateColumn(
        template_name="ingest/columns/job_kind.html", verbose_name=_("Kind"), order_by="kind"
    )
    user = tables.Column(
        verbose_name=_("Started by"), accessor="user__email", order_by="user__email"
    )
    state = tables.TemplateColumn(
        template_name="ingest/columns/job_state.html", verbose_name=_("State")
    )
    progress = tables.TemplateColumn(
        template_name="ingest/columns/job_progress.html",
        verbose_name=_("Progress"),
        orderable=False,
        empty_values=(),
    )
    created_at = _moment_column(_("Created"))
    started_at = _moment_column(_("Started"))
    finished_at = _moment_column(_("Finished"))

    class Meta:
        model: ClassVar = Job
        fields: ClassVar = (
            *("id", "kind", "user", "state", "progress"),
            *("created_at", "started_at", "finished_at"),
        )
        order_by: ClassVar = "-id"
        attrs: ClassVar = _ATTRS
        empty_text: ClassVar = _("There is no job yet.")
        row_attrs: ClassVar = {
            "data-job": lambda record: record.pk,
            "data-state": lambda record: record.state,
            "data-finished": lambda record: "true" if record.finished_at else "false",
        }

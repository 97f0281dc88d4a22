"""The pages of ingestion: sources, runs and their reports, single errors, jobs.

Everyone who is signed in may look; what changes something is a POST for owners and staff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django_tables2 as tables
from django.contrib import messages
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views import View
from django.views.generic import FormView, TemplateView

from ingest import permissions as access
from ingest import reconcile, runs, schedules, selectors, services
from ingest.bars import draw_outcomes
from ingest.errors import ConfigurationInvalid, IngestError, RunActive
from ingest.forms import SourceForm, list_problems
from ingest.models import EventKind, Job, Run, Source
from ingest.outcomes import Outcome
from ingest.review import review_run
from ingest.runlists import describe_runs
from ingest.runlog import write_run_log
from ingest.tables import JobTable, RunTable, SourceTable

if TYPE_CHECKING:
    SourceFormView = FormView[SourceForm]
else:
    SourceFormView = FormView

GAPS_PER_PAGE = 50
EVENTS_SHOWN = 50
ALERTS_SHOWN = 3
ROWS_PER_PAGE = 25


class SourceListView(LoginRequiredMixin, tables.SingleTableView):  # type: ignore[misc]
    table_class = SourceTable
    template_name = "ingest/sources.html"
    paginate_by = ROWS_PER_PAGE

    def get_queryset(self) -> QuerySet[Source]:
        latest = Run.objects.filter(source=OuterRef("pk")).order_by("-id")
        return (
            selectors.present_sources()
            .select_related("owner")
            .defer("configuration", "sealed_secrets")
            .annotate(
                last_run_id=Subquery(latest.values("pk")[:1]),
                last_run_state=Subquery(latest.values("state")[:1]),
            )
        )


class SourceView(LoginRequiredMixin, TemplateView):
    template_name = "ingest/source.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        source = _get_source(self.kwargs["slug"])
        rows = access.visible_runs().filter(source=source)
        table = RunTable(rows, exclude=("source",))
        tables.RequestConfig(self.request, paginate={"per_page": ROWS_PER_PAGE}).configure(table)
        _prepare_runs(table)
        return super().get_context_data(
            **kwargs,
            source=source,
            configuration=source.configuration,
            next_due_at=schedules.next_due_at(source, now=timezone.now()),
            table=table,
            may_write=access.may_write(self.request.user, source),
        )


class SourceCreateView(LoginRequiredMixin, SourceFormView):
    form_class = SourceForm
    template_name = "ingest/source_form.html"

    def form_valid(self, form: SourceForm) -> HttpResponse:
        try:
            source = services.create_source(
                owner=self.request.user, data=form.cleaned_data["configuration"]
            )
        except ConfigurationInvalid as error:
            form.add_error("configuration", list_problems(error.fields))
            return self.form_invalid(form)
        messages.success(self.request, _("The source %s was created.") % source.slug)
        return redirect("ingest:source", slug=source.slug)


class StartRunView(LoginRequiredMixin, View):
    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        source = _get_source(slug)
        _require_write(request, source)
        try:
            run = services.start_run(source=source, user=request.user)
        except RunActive as error:
            messages.warning(request, error.message)
            return redirect("ingest:run", run_id=error.run_id)
        except IngestError as error:
            messages.error(request, error.message)
            return redirect("ingest:source", slug=slug)
        messages.success(request, _("Run %d was started.") % run.pk)
        return redirect("ingest:run", run_id=run.pk)


class RunListView(LoginRequiredMixin, tables.SingleTableView):  # type: ignore[misc]
    table_class = RunTable
    template_name = "ingest/runs.html"
    paginate_by = ROWS_PER_PAGE

    def get_queryset(self) -> QuerySet[Run]:
        return access.visible_runs()

    def get_table(self, **kwargs: Any) -> RunTable:
        table: RunTable = super().get_table(**kwargs)
        _prepare_runs(table)
        return table


class RunView(LoginRequiredMixin, TemplateView):
    """The report of a run; while it goes on, its progress."""

    template_name = "ingest/run.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        run = _get_run(self.kwargs["run_id"])
        described = selectors.describe_run(run)
        counts = described["outcomes"]
        context = super().get_context_data(
            **kwargs,
            run=run,
            source=run.source,
            bar=draw_outcomes(counts),
            done=run.planned_total - counts[Outcome.PLANNED],
            planned=run.planned_total,
            records=described["records"],
            rate=described["rate_per_second"],
            duration=_duration(run),
            workers=0 if run.is_finished else runs.count_workers(run.pk),
            alerts=run.events.filter(kind=EventKind.ALERT).order_by("-seq")[:ALERTS_SHOWN],
            events=run.events.order_by("-seq")[:EVENTS_SHOWN],
            may_write=access.may_write(self.request.user, run.source),
        )
        if run.is_finished:
            context |= self._report(run)
        return context

    def _report(self, run: Run) -> dict[str, Any]:
        outcome = self.request.GET.get("outcome", "")
        rows = reconcile.select_missing(run)
        if outcome:
            rows = rows.filter(outcome=outcome)
        page = Paginator(rows, GAPS_PER_PAGE).get_page(self.request.GET.get("page"))
        return {
            "books": review_run(run),
            "gap_outcome": outcome if outcome in Outcome.values else "",
            "gap_page": page,
            "gaps": list(reconcile.describe_missing(run, page)),
        }


class RunActionView(LoginRequiredMixin, View):
    """A button of the report: does one thing to the run and shows the report again."""

    def post(self, request: HttpRequest, run_id: int) -> HttpResponse:
        run = _get_run(run_id)
        _require_write(request, run.source)
        try:
            messages.success(request, self.act(run))
        except IngestError as error:
            messages.error(request, error.message)
        return redirect("ingest:run", run_id=run_id)

    def act(self, run: Run) -> str:
        raise NotImplementedError


class SweepRunView(RunActionView):
    def act(self, run: Run) -> str:
        services.sweep_run(run=run)
        return _("What is missing is being fetched again.")


class CancelRunView(RunActionView):
    def act(self, run: Run) -> str:
        services.cancel_run(run=run)
        return _("The run was cancelled.")


class RunLogView(LoginRequiredMixin, View):
    def get(self, request: HttpRequest, run_id: int) -> StreamingHttpResponse:
        run = _get_run(run_id)
        name = f"{run.source.slug}-run-{run.pk}.csv"
        return StreamingHttpResponse(
            write_run_log(run),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


class ErrorView(LoginRequiredMixin, TemplateView):
    template_name = "ingest/error.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        errors = selectors.visible_errors(self.request.user)
        error = get_object_or_404(
            errors.select_related("source", "run", "request", "user"), pk=self.kwargs["error_id"]
        )
        return super().get_context_data(**kwargs, error=error)


class ResultListView(LoginRequiredMixin, tables.SingleTableView):  # type: ignore[misc]
    table_class = JobTable
    template_name = "ingest/results.html"
    paginate_by = ROWS_PER_PAGE

    def get_queryset(self) -> QuerySet[Job]:
        return access.visible_jobs(self.request.user).select_related("user")


def _get_source(slug: str) -> Source:
    return get_object_or_404(selectors.present_sources().select_related("owner"), slug=slug)


def _get_run(run_id: int) -> Run:
    return get_object_or_404(access.visible_runs().select_related("started_by"), pk=run_id)


def _require_write(request: HttpRequest, source: Source) -> None:
    if not access.may_write(request.user, source):
        raise PermissionDenied


def _prepare_runs(table: RunTable) -> None:
    """Give each run on the page what its columns draw, whatever the number of runs."""
    shown = list(table.page.object_list.data)
    for run, described in zip(shown, describe_runs(shown), strict=True):
        run.bar = draw_outcomes(described["outcomes"])
        run.rate = described["rate_per_second"]


def _duration(run: Run) -> Any:
    return run.finished_at - run.started_at if run.finished_at and run.started_at else None

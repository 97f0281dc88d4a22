"""The JSON endpoints of ingestion: sources, runs and their ledgers, records, errors, jobs.

Views check who may, read parameters, and call one service or selector; what an answer looks like is
decided there. `api_schema` documents the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from django.utils.translation import get_language
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.generics import get_object_or_404
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from ingest import permissions as access
from ingest import reconcile, selectors, services
from ingest.api_schema import (
    SOURCE_CONFIGURATION,
    SOURCE_PATCH,
    ErrorLogAnswer,
    JobAnswer,
    ReconciliationAnswer,
    RecordAnswer,
    RequestAnswer,
    RunAnswer,
    problems,
)
from ingest.changes import read_state
from ingest.filters import (
    ErrorFilter,
    JobFilter,
    RecordFilter,
    RequestFilter,
    RunFilter,
    StrictOrdering,
)
from ingest.models import ErrorLog, Job, Record, Run, Source
from ingest.models import Request as LedgerRow
from ingest.pagination import CursorPagination, NumberedPagination
from ingest.parsers import JSONObjectParser, MergePatchParser
from ingest.permissions import IsOwnerOrReadOnly
from ingest.readthrough import read_through
from ingest.runlists import describe_runs

_SIGNED_IN: list[Any] = [IsAuthenticated]
_OWNER_WRITES: list[Any] = [IsAuthenticated, IsOwnerOrReadOnly]


class SourceSerializer(serializers.BaseSerializer[Source]):
    def to_representation(self, instance: Source) -> dict[str, Any]:
        return selectors.describe_source(instance)


class RunListSerializer(serializers.ListSerializer[Run]):
    def to_representation(self, data: Any) -> list[dict[str, Any]]:
        return describe_runs(data)


class RunSerializer(RunAnswer):
    class Meta:
        list_serializer_class = RunListSerializer

    def to_representation(self, instance: Run) -> dict[str, Any]:
        return selectors.describe_run(instance)


class RequestSerializer(RequestAnswer):
    def to_representation(self, instance: LedgerRow) -> dict[str, Any]:
        return selectors.describe_request(instance, self.context["configuration"])


class RecordSerializer(RecordAnswer):
    def to_representation(self, instance: Record) -> dict[str, Any]:
        return {
            "id": instance.pk,
            "source": instance.source.slug,
            "key": instance.key,
            "title": instance.title,
            "text": instance.body,
            "data": instance.data,
            "weight": instance.weight,
            "outcome": instance.outcome,
            "status_code": instance.status_code,
            "occurred_at": instance.occurred_at,
            "stored_at": instance.stored_at,
            "updated_at": instance.updated_at,
        }


class ErrorLogSerializer(ErrorLogAnswer):
    def to_representation(self, instance: ErrorLog) -> dict[str, Any]:
        return {
            "id": instance.pk,
            "error_type": instance.error_type,
            "outcome": instance.outcome or None,
            "status_code": instance.status_code,
            "message": instance.message,
            "url": instance.url or None,
            "path": instance.path or None,
            "source": instance.source.slug if instance.source else None,
            "run": instance.run_id,
            "attempt": instance.attempt,
            "request_id": instance.correlation_id or None,
            "user": instance.user_id,
            "occurred_at": instance.occurred_at,
        }


class JobSerializer(JobAnswer):
    def to_representation(self, instance: Job) -> dict[str, Any]:
        return {
            "id": instance.pk,
            "kind": instance.kind,
            "user": instance.user_id,
            "run": instance.run_id,
            "state": instance.state,
            "progress": instance.progress,
            "done": instance.done,
            "total": instance.total,
            "message": instance.message,
            "created_at": instance.created_at,
            "started_at": instance.started_at,
            "finished_at": instance.finished_at,
        }


class SourceList(generics.ListAPIView[Source]):
    """Sources, by slug."""

    permission_classes = _SIGNED_IN
    parser_classes = [JSONObjectParser]
    pagination_class = NumberedPagination
    serializer_class = SourceSerializer

    def get_queryset(self) -> QuerySet[Source]:
        return selectors.present_sources().order_by("slug")

    @extend_schema(
        operation_id="sources_list", responses={200: SourceSerializer(many=True), **problems(400)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _read_through(
            request,
            stamp=read_state().sources_token,
            make=lambda: super(SourceList, self).get(request, *args, **kwargs),
        )

    @extend_schema(
        operation_id="sources_create",
        description="The body is the configuration; who sends it owns the source.",
        request={"application/json": SOURCE_CONFIGURATION},
        responses={201: SourceSerializer, **problems(400, 413, 415)},
    )
    def post(self, request: Request) -> Response:
        source = services.create_source(owner=request.user, data=request.data)
        return Response(
            selectors.describe_source(source),
            status=status.HTTP_201_CREATED,
            headers={"Location": reverse("ingest-api:source", args=[source.slug])},
        )


class SourceDetail(generics.GenericAPIView[Source]):
    """One source; secrets show as `{"set": true}`."""

    permission_classes = _OWNER_WRITES
    parser_classes = [JSONObjectParser, MergePatchParser]
    serializer_class = SourceSerializer
    lookup_field = "slug"

    def get_queryset(self) -> QuerySet[Source]:
        return selectors.present_sources()

    @extend_schema(operation_id="sources_read", responses={200: SourceSerializer, **problems(404)})
    def get(self, request: Request, slug: str) -> Response:
        return _read_through(
            request,
            stamp=read_state().sources_token,
            make=lambda: Response(selectors.describe_source(self.get_object())),
        )

    @extend_schema(
        operation_id="sources_patch",
        request={"application/json": SOURCE_PATCH, "application/merge-patch+json": SOURCE_PATCH},
        responses={200: SourceSerializer, **problems(400, 403, 404, 409, 413, 415)},
    )
    def patch(self, request: Request, slug: str) -> Response:
        source = services.update_source(source=self.get_object(), patch=request.data)
        return Response(selectors.describe_source(source))

    @extend_schema(
        operation_id="sources_delete",
        description="Archives the source; 409 while a run is active.",
        responses={204: None, **problems(403, 404, 409)},
    )
    def delete(self, request: Request, slug: str) -> Response:
        services.archive_source(source=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class SourceRuns(generics.GenericAPIView[Source]):
    """Starts runs of a source."""

    permission_classes = _OWNER_WRITES
    serializer_class = RunSerializer
    lookup_field = "slug"

    def get_queryset(self) -> QuerySet[Source]:
        return selectors.present_sources()

    @extend_schema(
        operation_id="sources_run",
        description="409 with the id of the active run while there is one.",
        request=None,
        responses={202: RunSerializer, **problems(403, 404, 409)},
    )
    def post(self, request: Request, slug: str) -> Response:
        run = services.start_run(source=self.get_object(), user=request.user)
        return _accepted(run)


class RunList(generics.ListAPIView[Run]):
    """Runs, newest first."""

    permission_classes = _SIGNED_IN
    pagination_class = NumberedPagination
    filter_backends = [DjangoFilterBackend]
    filterset_class = RunFilter
    serializer_class = RunSerializer

    def get_queryset(self) -> QuerySet[Run]:
        return access.visible_runs()

    @extend_schema(
        operation_id="runs_list", responses={200: RunSerializer(many=True), **problems(400)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class RunView(generics.GenericAPIView[Run]):
    """What the endpoints of one run share."""

    permission_classes = _OWNER_WRITES
    serializer_class: Any = RunSerializer
    lookup_url_kwarg = "run_id"

    def get_queryset(self) -> QuerySet[Any]:
        return access.visible_runs()


class RunDetail(RunView):
    """One run as it stands."""

    @extend_schema(operation_id="runs_read", responses={200: RunSerializer, **problems(404)})
    def get(self, request: Request, run_id: int) -> Response:
        return Response(selectors.describe_run(self.get_object()))


class RunSweep(RunView):
    @extend_schema(
        operation_id="runs_sweep",
        description="Fetches what is missing; reopens a finished run. 409 when nothing is missing.",
        request=None,
        responses={202: RunSerializer, **problems(403, 404, 409)},
    )
    def post(self, request: Request, run_id: int) -> Response:
        return _accepted(services.sweep_run(run=self.get_object()))


class RunCancel(RunView):
    @extend_schema(
        operation_id="runs_cancel",
        description="Stops an active run. 409 when it has finished.",
        request=None,
        responses={200: RunSerializer, **problems(403, 404, 409)},
    )
    def post(self, request: Request, run_id: int) -> Response:
        return Response(selectors.describe_run(services.cancel_run(run=self.get_object())))


class RunReconciliation(RunView):
    @extend_schema(
        operation_id="runs_reconciliation",
        description="Upstream, ledger, rows and index compared, computed at the call.",
        responses={200: ReconciliationAnswer, **problems(404)},
    )
    def get(self, request: Request, run_id: int) -> Response:
        return Response(reconcile.reconcile_run(self.get_object()).as_dict())


class RunRequests(generics.ListAPIView[LedgerRow]):
    """The ledger of a run, in the order of its plan."""

    permission_classes = _SIGNED_IN
    pagination_class = CursorPagination
    filter_backends = [DjangoFilterBackend]
    filterset_class = RequestFilter
    serializer_class = RequestSerializer

    def get_queryset(self) -> QuerySet[LedgerRow]:
        return LedgerRow.objects.filter(run=self.kwargs.get("run_id")).order_by("position")

    @extend_schema(
        operation_id="runs_requests",
        responses={200: RequestSerializer(many=True), **problems(400, 404)},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        runs = access.visible_runs().defer(None)  # it is needed right away
        run = get_object_or_404(runs, pk=self.kwargs["run_id"])
        self.configuration = selectors.public_configuration_of(run)
        return super().get(request, *args, **kwargs)

    def get_serializer_context(self) -> dict[str, Any]:
        context = super().get_serializer_context()
        return {**context, "configuration": getattr(self, "configuration", None)}


class RecordList(generics.ListAPIView[Record]):
    """Records of all sources."""

    permission_classes = _SIGNED_IN
    pagination_class = CursorPagination
    filter_backends = [DjangoFilterBackend, StrictOrdering]
    filterset_class = RecordFilter
    orderings = ("id", "-id", "occurred_at", "-occurred_at")
    serializer_class = RecordSerializer

    def get_queryset(self) -> QuerySet[Record]:
        return selectors.visible_records(self.request.user).select_related("source")

    @extend_schema(
        operation_id="records_list", responses={200: RecordSerializer(many=True), **problems(400)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _read_through(
            request,
            stamp=read_state().rows_stamp,
            make=lambda: super(RecordList, self).get(request, *args, **kwargs),
        )


class RecordDetail(generics.GenericAPIView[Record]):
    permission_classes = _SIGNED_IN
    serializer_class = RecordSerializer
    lookup_url_kwarg = "record_id"

    def get_queryset(self) -> QuerySet[Record]:
        return selectors.visible_records(self.request.user).select_related("source")

    @extend_schema(operation_id="records_read", responses={200: RecordSerializer, **problems(404)})
    def get(self, request: Request, record_id: int) -> Response:
        return _read_through(
            request,
            stamp=read_state().rows_stamp,
            make=lambda: Response(self.get_serializer(self.get_object()).data),
        )


class ErrorList(generics.ListAPIView[ErrorLog]):
    """The error log: all of it for staff, the fetch errors of own sources for others."""

    permission_classes = _SIGNED_IN
    pagination_class = CursorPagination
    filter_backends = [DjangoFilterBackend, StrictOrdering]
    filterset_class = ErrorFilter
    orderings = ("-occurred_at", "occurred_at", "-id", "id")
    serializer_class = ErrorLogSerializer

    def get_queryset(self) -> QuerySet[ErrorLog]:
        if getattr(self, "swagger_fake_view", False):  # the schema is made for nobody
            return ErrorLog.objects.none()
        return selectors.visible_errors(self.request.user).select_related("source")

    @extend_schema(
        operation_id="errors_list", responses={200: ErrorLogSerializer(many=True), **problems(400)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class ErrorDetail(generics.GenericAPIView[ErrorLog]):
    permission_classes = _SIGNED_IN
    serializer_class = ErrorLogSerializer
    lookup_url_kwarg = "error_id"

    def get_queryset(self) -> QuerySet[ErrorLog]:
        if getattr(self, "swagger_fake_view", False):  # the schema is made for nobody
            return ErrorLog.objects.none()
        return selectors.visible_errors(self.request.user).select_related("source")

    @extend_schema(operation_id="errors_read", responses={200: ErrorLogSerializer, **problems(404)})
    def get(self, request: Request, error_id: int) -> Response:
        return Response(self.get_serializer(self.get_object()).data)


class JobList(generics.ListAPIView[Job]):
    """Expensive tasks, newest first: one's own and those on one's sources; for staff all."""

    permission_classes = _SIGNED_IN
    pagination_class = NumberedPagination
    filter_backends = [DjangoFilterBackend]
    filterset_class = JobFilter
    serializer_class = JobSerializer

    def get_queryset(self) -> QuerySet[Job]:
        return access.visible_jobs(self.request.user)

    @extend_schema(
        operation_id="jobs_list", responses={200: JobSerializer(many=True), **problems(400)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)


class JobDetail(generics.GenericAPIView[Job]):
    permission_classes = _SIGNED_IN
    serializer_class = JobSerializer
    lookup_url_kwarg = "job_id"

    def get_queryset(self) -> QuerySet[Job]:
        return access.visible_jobs(self.request.user)

    @extend_schema(operation_id="jobs_read", responses={200: JobSerializer, **problems(404)})
    def get(self, request: Request, job_id: int) -> Response:
        return Response(self.get_serializer(self.get_object()).data)


def _read_through(request: Request, *, stamp: object, make: Callable[[], Response]) -> Response:
    """The answer out of the cache, where it has one. For what everybody who may ask sees alike."""
    data, origin = read_through(
        ("api", request.build_absolute_uri(), get_language()),
        stamp=stamp,
        make=lambda: make().data,
    )
    return Response(data, headers=origin.headers())


def _accepted(run: Run) -> Response:
    return Response(
        selectors.describe_run(run),
        status=status.HTTP_202_ACCEPTED,
        headers={"Location": reverse("ingest-api:run", args=[run.pk])},
    )

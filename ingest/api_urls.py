"""Addresses of the JSON endpoints, below /api/."""

from django.urls import path

from ingest import api

app_name = "ingest-api"

urlpatterns = [
    path("sources/", api.SourceList.as_view(), name="sources"),
    path("sources/<slug:slug>/", api.SourceDetail.as_view(), name="source"),
    path("sources/<slug:slug>/runs/", api.SourceRuns.as_view(), name="source-runs"),
    path("runs/", api.RunList.as_view(), name="runs"),
    path("runs/<int:run_id>/", api.RunDetail.as_view(), name="run"),
    path("runs/<int:run_id>/sweep/", api.RunSweep.as_view(), name="run-sweep"),
    path("runs/<int:run_id>/cancel/", api.RunCancel.as_view(), name="run-cancel"),
    path("runs/<int:run_id>/requests/", api.RunRequests.as_view(), name="run-requests"),
    path(
        "runs/<int:run_id>/reconciliation/",
        api.RunReconciliation.as_view(),
        name="run-reconciliation",
    ),
    path("records/", api.RecordList.as_view(), name="records"),
    path("records/<int:record_id>/", api.RecordDetail.as_view(), name="record"),
    path("errors/", api.ErrorList.as_view(), name="errors"),
    path("errors/<int:error_id>/", api.ErrorDetail.as_view(), name="error"),
    path("jobs/", api.JobList.as_view(), name="jobs"),
    path("jobs/<int:job_id>/", api.JobDetail.as_view(), name="job"),
]

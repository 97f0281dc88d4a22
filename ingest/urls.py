"""Addresses of the pages of ingestion."""

from django.urls import path

from ingest import views

app_name = "ingest"

urlpatterns = [
    path("sources/", views.SourceListView.as_view(), name="sources"),
    path("sources/new/", views.SourceCreateView.as_view(), name="source-new"),
    path("sources/<slug:slug>/", views.SourceView.as_view(), name="source"),
    path("sources/<slug:slug>/start/", views.StartRunView.as_view(), name="source-start"),
    path("runs/", views.RunListView.as_view(), name="runs"),
    path("runs/<int:run_id>/", views.RunView.as_view(), name="run"),
    path("runs/<int:run_id>/log.csv", views.RunLogView.as_view(), name="run-log"),
    path("runs/<int:run_id>/sweep/", views.SweepRunView.as_view(), name="run-sweep"),
    path("runs/<int:run_id>/cancel/", views.CancelRunView.as_view(), name="run-cancel"),
    path("errors/<int:error_id>/", views.ErrorView.as_view(), name="error"),
    path("result/", views.ResultListView.as_view(), name="results"),
]

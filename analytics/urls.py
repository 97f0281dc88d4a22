"""Addresses of the pages of analytics."""

from django.urls import path

from analytics import views

app_name = "analytics"

urlpatterns = [path("analytics/health/", views.HealthView.as_view(), name="health")]

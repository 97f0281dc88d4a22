"""Every address of the portal."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from portal import api, health, views

admin.site.site_header = admin.site.site_title = "Gleaner"

urlpatterns = [
    path("", views.home, name="home"),
    path("api/token/", api.TokenView.as_view(), name="api-token"),
    path("api/token/refresh/", api.RefreshView.as_view(), name="api-token-refresh"),
    path("api/token/revoke/", api.RevokeView.as_view(), name="api-token-revoke"),
    path("api/schema/", api.SchemaView.as_view(), name="api-schema"),
    path("api/docs/", api.DocsView.as_view(), name="api-docs"),
    path("health", health.alive, name="health"),
    path("health/ready", health.ready, name="health-ready"),
    path("favicon.ico", views.favicon),
    path("robots.txt", views.robots),
    path("accounts/", include("django.contrib.auth.urls")),
    path("admin/", admin.site.urls),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/", include("ingest.api_urls")),
    path("api/", include("search.api_urls")),
    path("", include("ingest.urls")),
    path("", include("search.urls")),
    path("", include("analytics.urls")),
    path("dash/", include("analytics.dash_urls")),
]

handler400 = "portal.views.bad_request"
handler403 = "portal.views.permission_denied"
handler404 = "portal.views.not_found"
handler500 = "portal.views.server_error"

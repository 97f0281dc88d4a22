"""Addresses of the JSON endpoints of search, below /api/."""

from django.urls import path

from search.api import SearchView

app_name = "search-api"

urlpatterns = [
    path("search/", SearchView.as_view(), name="search"),
    path("search/<path:text>/", SearchView.as_view(), name="search-text"),
]

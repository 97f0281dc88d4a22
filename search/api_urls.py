"""Addresses of the JSON endpoints of search, below /api/."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from search.api import ExportView, SearchView

app_name = "search-api"


class AnyTextConverter(StringConverter):
    """Slashes and line breaks too."""

    regex = "(?s:.+)"


register_converter(AnyTextConverter, "any-text")

urlpatterns = [
    path("search/", SearchView.as_view(), name="search"),
    path("search/export/", ExportView.as_view(), name="export"),
    path("search/<any-text:text>/", SearchView.as_view(), name="search-text"),
]

"""Addresses of the pages of search."""

from django.urls import path

from search import views

app_name = "search"

urlpatterns = [
    path("search/", views.search_page, name="page"),
    path("records/<int:pk>/", views.record_page, name="record"),
]

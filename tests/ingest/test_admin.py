"""The admin shows the tables of ingestion and lets nobody change them by hand."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from ingest import runs
from ingest.admin import ErrorLogAdmin
from ingest.models import ErrorLog, Job, Outbox, Record, Request, Run, RunEvent, Source
from tests.ingest.clients import visit_as
from tests.ingest.factories import (
    FetchErrorFactory,
    JobFactory,
    RecordFactory,
    ServerErrorFactory,
    SourceFactory,
    UserFactory,
    finish_run,
)

pytestmark = pytest.mark.django_db

MODELS: tuple[Any, ...] = (Source, Run, Request, Record, ErrorLog, Job, Outbox, RunEvent)


@pytest.fixture
def visitor() -> Client:
    return visit_as(UserFactory(is_staff=True, is_superuser=True))


def address(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:ingest_{model._meta.model_name}_{page}", args=args)


@pytest.fixture
def rows() -> None:
    run = finish_run(SourceFactory(slug="cities"), ["delivered", "failed"])
    FetchErrorFactory(request=run.requests.get(outcome="failed"))
    ServerErrorFactory()
    RecordFactory(source=run.source)
    JobFactory(run=run)
    runs.add_alert(run, "The source is shut to us.")


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_table_can_be_listed_searched_and_opened(visitor: Client, model: Any) -> None:
    row = model.objects.first()
    assert row is not None
    for page in (
        address(model, "changelist"),
        address(model, "changelist") + "?q=7",
        address(model, "change", row.pk),
    ):
        assert visitor.get(page).status_code == 200, page


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_table_can_be_written_even_by_a_superuser(visitor: Client, model: Any) -> None:
    row = model.objects.first()
    assert visitor.get(address(model, "add")).status_code == 403
    assert visitor.post(address(model, "change", row.pk), {"slug": "x"}).status_code == 403
    assert visitor.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


def test_the_sealed_secrets_are_not_on_the_page(visitor: Client) -> None:
    source = SourceFactory(sealed_secrets=b"sealed-in-wax")
    page = visitor.get(address(Source, "change", source.pk)).content.decode()
    assert source.slug in page
    assert "sealed" not in page


def test_the_error_log_lists_and_filters_by_type_status_time_and_message(visitor: Client) -> None:
    log = admin.site._registry[ErrorLog]
    assert isinstance(log, ErrorLogAdmin)
    assert {"error_type", "status_code", "occurred_at", "message", "url"} <= {
        str(name) for name in log.list_display
    }
    assert {"error_type", "status_code", "occurred_at"} <= {str(name) for name in log.list_filter}
    ServerErrorFactory(message="Needle in the hay")
    ServerErrorFactory(message="Something else")
    page = visitor.get(address(ErrorLog, "changelist") + "?q=needle").content.decode()
    assert "Needle in the hay" in page
    assert "Something else" not in page


def test_a_list_costs_the_same_queries_however_long_it_is(
    visitor: Client, django_assert_max_num_queries: Any
) -> None:
    FetchErrorFactory.create_batch(10)
    with django_assert_max_num_queries(14):
        visitor.get(address(ErrorLog, "changelist"))


def test_the_admin_is_for_staff_only() -> None:
    response = visit_as(UserFactory()).get(address(ErrorLog, "changelist"))
    assert response.status_code == 302
    assert "login" in response.headers["Location"]

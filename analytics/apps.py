from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import connections
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class AnalyticsConfig(AppConfig):
    name = "analytics"
    verbose_name = _("Analytics")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from analytics import hours
        from analytics.checks import check_dashboards

        hours.connect()
        post_migrate.connect(
            _register_apps, sender=self, dispatch_uid="analytics.apps.register_apps"
        )
        checks.register(check_dashboards, checks.Tags.security)


def _register_apps(using: str, **kwargs: Any) -> None:
    """Writes the row that django-plotly-dash wants of each app.

    It would do so when the app is first opened: twice at once, and the second visitor gets a 500.
    """
    from django_plotly_dash.models import StatelessApp

    from analytics.dashboards import NAMES

    connection = connections[using]
    with connection.cursor() as cursor:
        if StatelessApp._meta.db_table not in connection.introspection.table_names(cursor):
            return
    for name in NAMES:
        StatelessApp.objects.using(using).get_or_create(app_name=name, defaults={"slug": name})

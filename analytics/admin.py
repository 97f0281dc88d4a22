"""The admin shows no tables of django-plotly-dash: its apps are code here, not rows."""

from django.contrib import admin
from django_plotly_dash.models import DashApp, StatelessApp

for model in (DashApp, StatelessApp):
    if admin.site.is_registered(model):
        admin.site.unregister(model)

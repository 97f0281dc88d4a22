"""The Dash app *ingestion health*: how sending goes over time, and how complete each source is.

Its whole state stands in its address (`analytics.filters`). The browser's part, which keeps
controls and address in step, is `static/analytics/dashboard.js`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from dash import ClientsideFunction, Input, Output, dcc, html, no_update
from django.conf import settings
from django.templatetags.static import static
from django.utils import timezone
from django.utils.functional import lazy
from django.utils.translation import gettext as _
from django_plotly_dash import DjangoDash

from analytics import drill, figures, frames
from analytics.figures import Figure, Style
from analytics.filters import DEFAULT_PRESET, SEND_OUTCOMES, Filters, Period, read_filters
from analytics.palette import choose_theme

NAME = "health"
REFRESH_SECONDS = 30

_CHARTS = ("outcomes", "throughput", "latency", "completeness")
# Known only when the page is built: collectstatic names files by their content.
_lazy_static = lazy(static, str)


def _make_app() -> DjangoDash:
    with warnings.catch_warnings():
        # It warns of every option that it hands on to Dash unread.
        warnings.simplefilter("ignore", UserWarning)
        return DjangoDash(
            NAME,
            serve_locally=True,
            title="Ingestion health",
            update_title=None,
            csrf_token_name=settings.CSRF_COOKIE_NAME,
            external_stylesheets=[_lazy_static("analytics/dashboard.css")],
            external_scripts=[_lazy_static("analytics/dashboard.js")],
            meta_tags=[
                {"name": "viewport", "content": "width=device-width, initial-scale=1"},
                {"name": "color-scheme", "content": "light dark"},
            ],
        )


app = _make_app()


def draw_layout() -> html.Div:
    """The page without its data, in the reader's language."""
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="question"),
            dcc.Store(id="theme"),
            dcc.Store(id="told"),
            dcc.Store(id="opened"),
            dcc.Interval(id="tick", interval=REFRESH_SECONDS * 1000),
            _controls(),
            html.P(id="status", className="status", role="status"),
            html.P(
                _("The numbers could not be refreshed; trying again."),
                id="trouble",
                className="trouble",
                role="alert",
                hidden=True,
            ),
            html.Dl(id="totals", className="totals"),
            _card("outcomes", _("Outcomes of requests"), _("Click a bar to see its rows.")),
            html.Div(
                [
                    _card("throughput", _("Throughput"), _("Mean of each bar’s time.")),
                    _card("latency", _("Latency"), _("From request to answer.")),
                ],
                className="pair",
            ),
            _card(
                "completeness",
                _("Completeness by source"),
                _("Delivered or accepted, of what the latest finished run planned."),
            ),
        ],
        className="dashboard",
    )


app.layout = draw_layout


def _controls() -> html.Div:
    today = timezone.now().date()
    presets = {"1h": _("1 hour"), "24h": _("24 hours"), "7d": _("7 days"), "30d": _("30 days")}
    return html.Div(
        [
            html.Div(
                [
                    html.Span(_("Time"), className="label", id="preset-label"),
                    dcc.RadioItems(
                        id="preset",
                        className="presets",
                        options=[{"label": label, "value": key} for key, label in presets.items()],
                        value=DEFAULT_PRESET,
                        inline=True,
                    ),
                ],
                className="control",
                role="group",
                **_label_by("preset-label"),
            ),
            html.Div(
                [
                    html.Label(_("Days (UTC)"), className="label", htmlFor="dates"),
                    dcc.DatePickerRange(
                        id="dates",
                        display_format="YYYY-MM-DD",
                        month_format="MMMM YYYY",
                        first_day_of_week=1,
                        clearable=True,
                        start_date_placeholder_text=_("from"),
                        end_date_placeholder_text=_("to"),
                        minimum_nights=0,
                        initial_visible_month=f"{today}",
                        max_date_allowed=f"{today + timedelta(days=1)}",
                    ),
                ],
                className="control",
            ),
            html.Div(
                [
                    html.Label(_("Sources"), className="label", htmlFor="source"),
                    dcc.Dropdown(
                        id="source",
                        options=[
                            {"label": choice.slug, "value": choice.slug}
                            for choice in frames.list_sources()
                        ],
                        multi=True,
                        maxHeight=420,
                        placeholder=_("All sources"),
                        labels=_dropdown_labels(),
                    ),
                ],
                className="control wide",
            ),
            html.Div(
                [
                    html.Label(_("Outcomes"), className="label", htmlFor="outcome"),
                    dcc.Dropdown(
                        id="outcome",
                        options=[
                            {"label": str(outcome.label), "value": outcome.value}
                            for outcome in SEND_OUTCOMES
                        ],
                        multi=True,
                        maxHeight=420,
                        placeholder=_("All outcomes"),
                        labels=_dropdown_labels(),
                    ),
                ],
                className="control wide",
            ),
            html.Div(
                [
                    html.Button(
                        _("Reset zoom"), id="unzoom", className="button", n_clicks=0, hidden=True
                    ),
                    html.Button(_("Refresh"), id="refresh", className="button", n_clicks=0),
                ],
                className="control buttons",
            ),
        ],
        className="controls",
    )


def _label_by(element_id: str) -> dict[str, Any]:
    return {"aria-labelledby": element_id}


def _dropdown_labels() -> Any:
    return {
        "select_all": _("Select all"),
        "deselect_all": _("Deselect all"),
        "selected_count": _("{num_selected} selected"),
        "search": _("Search"),
        "clear_search": _("Clear search"),
        "clear_selection": _("Clear selection"),
        "no_options_found": _("Nothing found"),
    }


def _card(name: str, title: str, hint: str) -> html.Section:
    return html.Section(
        [
            html.Div(
                [html.H2(title, id=f"{name}-title"), html.P(hint, className="hint")],
                className="card-head",
            ),
            dcc.Graph(
                id=name,
                className="chart",
                # Dash writes a height of its own on the element: CSS cannot.
                style={"height": "320px"},
                config=_graph_config(),
                figure=_blank(),
            ),
        ],
        className=f"card card-{name}",
        **_label_by(f"{name}-title"),
    )


def _graph_config() -> Any:
    return dict(figures.GRAPH_CONFIG)


def _blank() -> Figure:
    hidden = {"visible": False}
    clear = "rgba(0,0,0,0)"
    layout = {"xaxis": hidden, "yaxis": hidden, "paper_bgcolor": clear, "plot_bgcolor": clear}
    return {"data": [], "layout": layout}


app.clientside_callback(
    ClientsideFunction(namespace="gleaner", function_name="sync"),
    Output("url", "search"),
    Output("preset", "value"),
    Output("source", "value"),
    Output("outcome", "value"),
    Output("dates", "start_date"),
    Output("dates", "end_date"),
    Output("unzoom", "hidden"),
    Input("url", "search"),
    Input("preset", "value"),
    Input("source", "value"),
    Input("outcome", "value"),
    Input("dates", "start_date"),
    Input("dates", "end_date"),
    Input("unzoom", "n_clicks"),
    Input("outcomes", "relayoutData"),
    Input("throughput", "relayoutData"),
    Input("latency", "relayoutData"),
)
app.clientside_callback(
    ClientsideFunction(namespace="gleaner", function_name="ask"),
    Output("question", "data"),
    Input("url", "search"),
    Input("tick", "n_intervals"),
    Input("refresh", "n_clicks"),
    Input("theme", "data"),
)
app.clientside_callback(
    ClientsideFunction(namespace="gleaner", function_name="open"),
    Output("opened", "data"),
    Input("outcomes", "clickData"),
    Input("completeness", "clickData"),
    prevent_initial_call=True,
)
app.clientside_callback(
    ClientsideFunction(namespace="gleaner", function_name="tell"),
    Output("told", "data"),
    Input("status", "children"),
    prevent_initial_call=True,
)


@app.callback(  # type: ignore[untyped-decorator]
    [Output(name, "figure") for name in _CHARTS]
    + [
        Output("completeness", "style"),
        Output("totals", "children"),
        Output("status", "children"),
    ],
    [Input("question", "data")],
    prevent_initial_call=True,
)
def update(question: dict[str, Any] | None, *, user: Any) -> list[Any]:
    """All that depends on data, for a question {"search", "theme", "touch"} of the browser."""
    if not question:
        return [no_update] * (len(_CHARTS) + 3)
    filters = read_filters(str(question.get("search") or ""))
    style = Style(
        theme=choose_theme(str(question.get("theme") or "")),
        revision=filters.as_query(),
        is_touch=bool(question.get("touch")),
    )
    health = read_health(filters, now=timezone.now())
    return [
        *_draw_charts(health, filters, style, user=user),
        {"height": f"{figures.measure_completeness(health.completeness)}px"},
        _describe_totals(health, filters),
        describe_status(filters, health),
    ]


@dataclass(frozen=True, slots=True)
class Health:
    """What the roll-ups say about a period."""

    now: datetime
    period: Period
    buckets: pd.DataFrame
    totals: frames.Totals
    completeness: pd.DataFrame


def read_health(filters: Filters, *, now: datetime) -> Health:
    period = filters.period(now)
    buckets = frames.read_buckets(filters, period)
    return Health(
        now=now,
        period=period,
        buckets=buckets,
        totals=frames.sum_up(buckets),
        completeness=frames.read_completeness(filters),
    )


def _draw_charts(health: Health, filters: Filters, style: Style, *, user: Any) -> Iterable[Figure]:
    buckets, period = health.buckets, health.period
    find_url = drill.link_segments(
        filters,
        period,
        frames.name_single_runs(buckets, period),
        sees_errors=drill.sees_all_errors(user, filters, frames.list_sources()),
    )
    rates = frames.measure_throughput(buckets, period, now=health.now)
    yield figures.draw_outcomes(
        frames.count_outcomes(buckets, period), period, style, find_url=find_url
    )
    yield figures.draw_throughput(rates, period, style)
    yield figures.draw_latency(frames.measure_latency(buckets, period), period, style)
    yield figures.draw_completeness(health.completeness, style, find_url=drill.find_run_url)


def _describe_totals(health: Health, filters: Filters) -> list[Any]:
    totals, completeness = health.totals, health.completeness
    complete = int((completeness["share"] == 1).sum())
    # Of the failed requests alone it says nothing which share was delivered.
    share = None if filters.outcomes else totals.delivered_share
    return [
        _total(_("Requests sent"), f"{totals.sends:,}"),
        _total(_("Delivered"), _percent(share)),
        _total(_("Records received"), f"{totals.records:,}"),
        _total(_("Mean latency"), _milliseconds(totals.mean_ms)),
        _total(_("Longest"), _milliseconds(totals.max_ms)),
        _total(_("Complete sources"), f"{complete} / {len(completeness)}"),
    ]


def _total(label: str, value: str) -> html.Div:
    return html.Div([html.Dt(label), html.Dd(value)], className="total")


def _percent(share: float | None) -> str:
    """Rounded down: 100 % is said of all only."""
    return "–" if share is None else f"{int(share * 1000) / 10:g} %"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def describe_status(filters: Filters, health: Health) -> str:
    """Which time is shown, how long a bar is, how fresh it is, what of the address was ignored."""
    period = health.period
    text = _("%(since)s – %(until)s UTC, a bar is %(width)s; as of %(now)s.") % {
        "since": f"{period.since:%Y-%m-%d %H:%M}",
        "until": f"{min(period.until, max(health.now, period.since)):%Y-%m-%d %H:%M}",
        "width": figures.describe_width(period),
        "now": f"{health.now:%H:%M:%S}",
    }
    if filters.ignored:
        text += " " + _("Not understood and left out: %s.") % ", ".join(filters.ignored)
    return text

"""DataFrames as figures for plotly.js.

Plain dicts: building the same through `plotly.graph_objects` costs 200 times as much. Slots are
given by their first time and their width (`x0`, `dx`), not by a list of times. `customdata` is the
address that a bar leads to, or null. Each function takes one frame of `analytics.frames`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pandas as pd
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from analytics.filters import DAY, HOUR, MINUTE, WEEK, Period
from analytics.palette import OUTCOME_COLOURS, OUTCOME_PATTERNS, Theme
from ingest.outcomes import Outcome, RunState

Figure = dict[str, Any]

MAX_SOURCES = 25

# What every chart is shown with. plotly.js would offer to send its data to a server of its makers.
GRAPH_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
        "displaylogo": False,
        "showSendToCloud": False,
        "plotlyServerURL": "",
        "responsive": True,
        "showTips": False,
        "doubleClick": "autosize",
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "gleaner"},
    }
)

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif'
_BAR_SHARE = 0.9  # of its slot; the rest is the gap to the next
_ROW_PIXELS = 34


@dataclass(frozen=True, slots=True)
class Style:
    """How to draw: the theme, and for what the reader's own zoom is kept (`revision`)."""

    theme: Theme
    revision: str = ""
    is_touch: bool = False


def draw_outcomes(
    counts: pd.DataFrame,
    period: Period,
    style: Style,
    *,
    find_url: Callable[[str, int], str | None] = lambda outcome, index: None,
) -> Figure:
    """Sends per slot, stacked by outcome. `find_url(outcome, index)`: where a segment leads."""
    if counts.empty or not counts.to_numpy().any():
        return _draw_nothing(period, style, _("No requests were sent in this time."))
    width_ms = period.width_seconds * 1000
    data = []
    for outcome in counts.columns:
        values = counts[outcome].tolist()
        marker: dict[str, Any] = {"color": OUTCOME_COLOURS[outcome], "line": {"width": 0}}
        if outcome in OUTCOME_PATTERNS:
            marker["pattern"] = {
                "shape": OUTCOME_PATTERNS[outcome],
                "fgcolor": "#ffffff",
                "size": 6,
                "solidity": 0.25,
            }
        data.append(
            {
                "type": "bar",
                "name": str(Outcome(outcome).label),
                "meta": outcome,
                **_slots(period),
                "y": values,
                "offset": width_ms * (1 - _BAR_SHARE) / 2,
                "width": width_ms * _BAR_SHARE,
                "marker": marker,
                "customdata": [
                    find_url(outcome, index) if value else None
                    for index, value in enumerate(values)
                ],
                "hovertemplate": "%{y:,}",
            }
        )
    layout = _layout(period, style, unit=_("sends"), is_count=True)
    layout |= {"barmode": "stack", "showlegend": True}
    return {"data": data, "layout": layout}


def draw_throughput(rates: pd.DataFrame, period: Period, style: Style) -> Figure:
    """Sends and records per second, the mean of each slot."""
    if not rates.to_numpy(na_value=0.0).any():
        return _draw_nothing(period, style, _("No requests were sent in this time."))
    theme = style.theme
    data = [
        _line(rates["sends"], period, _("sends"), theme.first_line, fill=True),
        _line(rates["records"], period, _("records"), theme.second_line, dash="dot"),
    ]
    return {"data": data, "layout": _layout(period, style, unit=_("per second"))}


def draw_latency(latency: pd.DataFrame, period: Period, style: Style) -> Figure:
    """Mean and longest time from request to answer; nothing is drawn where nothing was sent."""
    if latency["mean_ms"].isna().all():
        return _draw_nothing(period, style, _("No requests were sent in this time."))
    theme = style.theme
    data = [
        _line(latency["mean_ms"], period, _("mean"), theme.first_line, has_gaps=True),
        _line(latency["max_ms"], period, _("longest"), theme.second_line, "dot", has_gaps=True),
    ]
    return {"data": data, "layout": _layout(period, style, unit=_("ms"))}


def draw_completeness(
    completeness: pd.DataFrame,
    style: Style,
    *,
    find_url: Callable[[int], str | None] = lambda run_id: None,
) -> Figure:
    """A bar per source: what share of its latest finished run was delivered or accepted."""
    if completeness.empty:
        return _draw_nothing(None, style, _("No run has finished yet."))
    shown = completeness.head(MAX_SOURCES).iloc[::-1]  # plotly draws from the bottom up
    rows = shown.to_dict("records")
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [row["slug"] for row in rows],
            "x": [row["share"] * 100 for row in rows],
            "text": [describe_share(row) for row in rows],
            "textposition": "auto",
            "insidetextanchor": "start",
            "insidetextfont": {"color": "#ffffff"},
            "cliponaxis": False,
            "customdata": [find_url(row["run_id"]) for row in rows],
            "marker": {
                "color": ["#00755a" if row["share"] == 1 else "#b34700" for row in rows],
            },
            "width": 0.7,
            "hovertemplate": "%{y}: %{text}<extra></extra>",
        }
    ]
    layout = _bare_layout(style)
    layout |= {
        "margin": {"l": 8, "r": 36, "t": 8, "b": 32},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        "xaxis": _axis(style) | {"range": [0, 100], "ticksuffix": " %", "fixedrange": True},
        "yaxis": _axis(style)
        | {"type": "category", "fixedrange": True, "automargin": True, "showgrid": False},
    }
    return {"data": data, "layout": layout}


def measure_completeness(completeness: pd.DataFrame) -> int:
    """How many pixels high `draw_completeness` wants to be."""
    return 56 + _ROW_PIXELS * max(min(len(completeness), MAX_SOURCES), 2)


def describe_share(row: Mapping[Any, Any]) -> str:
    """“99.97 %, 3 missing”; rounded down, so that only what is complete says 100 %."""
    percent = int(row["share"] * 10_000) / 100
    missing = row["planned"] - row["delivered"] - row["accepted"]
    if row["share"] == 1:
        return _("100 %, complete")
    if missing:
        text = ngettext(
            "%(share)s %%, %(count)s missing", "%(share)s %%, %(count)s missing", missing
        )
        return text % {"share": f"{percent:g}", "count": f"{missing:,}"}
    return _("%(share)s %%, %(state)s") % {
        "share": f"{percent:g}",
        "state": RunState(row["state"]).label,
    }


def describe_width(period: Period) -> str:
    """How long a slot is: “5 minutes”."""
    seconds = period.width_seconds
    if seconds % WEEK == 0:
        return _count(ngettext("%d week", "%d weeks", seconds // WEEK), seconds // WEEK)
    if seconds % DAY == 0:
        return _count(ngettext("%d day", "%d days", seconds // DAY), seconds // DAY)
    if seconds % HOUR == 0:
        return _count(ngettext("%d hour", "%d hours", seconds // HOUR), seconds // HOUR)
    return _count(ngettext("%d minute", "%d minutes", seconds // MINUTE), seconds // MINUTE)


def _count(template: str, count: int) -> str:
    return template % count


def _slots(period: Period, *, shift_seconds: float = 0) -> dict[str, Any]:
    first = period.since + timedelta(seconds=shift_seconds)
    return {"x0": f"{first:%Y-%m-%d %H:%M:%S}", "dx": period.width_seconds * 1000}


def _line(
    values: pd.Series[float],
    period: Period,
    name: str,
    colour: str,
    dash: str = "solid",
    *,
    fill: bool = False,
    has_gaps: bool = False,
) -> dict[str, Any]:
    rounded = [None if value != value else float(f"{value:.4g}") for value in values.tolist()]
    trace: dict[str, Any] = {
        "type": "scatter",
        # A slot between two gaps has no line to belong to: it is a dot.
        "mode": "lines+markers" if has_gaps else "lines",
        "name": name,
        **_slots(period, shift_seconds=period.width_seconds / 2),
        "y": rounded,
        "line": {"color": colour, "width": 2, "dash": dash},
        "connectgaps": False,
        "hovertemplate": "%{y:,.4~r}",
    }
    if has_gaps:
        trace["marker"] = {"color": colour, "size": 4}
    if fill:
        trace |= {"fill": "tozeroy", "fillcolor": colour + "26"}
    return trace


def _layout(period: Period, style: Style, *, unit: str, is_count: bool = False) -> dict[str, Any]:
    layout = _bare_layout(style)
    layout |= {
        "margin": {"l": 8, "r": 12, "t": 28, "b": 64},
        "hovermode": "x unified",
        "hoverdistance": -1,
        "dragmode": False if style.is_touch else "zoom",
        "showlegend": True,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": -0.16,
            "yanchor": "top",
            "font": {"size": 13},
            "traceorder": "normal",
        },
        "xaxis": _axis(style)
        | {
            "type": "date",
            "range": [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (period.since, period.until)],
            "hoverformat": "%Y-%m-%d" if period.width_seconds >= DAY else "%Y-%m-%d %H:%M",
            "showgrid": False,
            "fixedrange": style.is_touch,
        },
        "yaxis": _axis(style)
        | {
            "rangemode": "tozero",
            "fixedrange": True,  # a drag chooses a time, nothing else
            "automargin": True,
            "tickformat": ",d" if is_count else ",~g",
            "nticks": 6,
            "title": {"text": unit, "font": {"size": 12, "color": style.theme.muted}},
        },
    }
    return layout


def _bare_layout(style: Style) -> dict[str, Any]:
    theme = style.theme
    return {
        "uirevision": style.revision,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 13, "color": theme.text},
        "hoverlabel": {
            "bgcolor": theme.surface,
            "bordercolor": theme.border,
            "font": {"family": _FONT, "size": 13, "color": theme.text},
            "namelength": -1,
        },
        "separators": ".,",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.text},
    }


def _axis(style: Style) -> dict[str, Any]:
    theme = style.theme
    return {
        "gridcolor": theme.grid,
        "linecolor": theme.border,
        "zeroline": False,
        "tickfont": {"color": theme.muted, "size": 12},
    }


def _draw_nothing(period: Period | None, style: Style, text: str) -> Figure:
    """An empty chart that says so."""
    layout = _bare_layout(style) | {"margin": {"l": 8, "r": 8, "t": 8, "b": 32}}
    hidden = {"visible": False, "fixedrange": True}
    layout |= {
        "xaxis": _layout(period, style, unit="")["xaxis"] if period else dict(hidden),
        "yaxis": dict(hidden),
        "dragmode": False,
        "annotations": [
            {
                "text": text,
                "xref": "paper",
                "yref": "paper",
                "x": 0.5,
                "y": 0.5,
                "showarrow": False,
                "font": {"size": 15, "color": style.theme.muted},
            }
        ],
    }
    return {"data": [], "layout": layout}

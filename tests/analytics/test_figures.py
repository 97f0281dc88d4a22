"""DataFrames as figures: what is drawn, and what it says when there is nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from analytics import figures
from analytics.figures import Style
from analytics.filters import Period, cut_period
from analytics.palette import OUTCOME_COLOURS, THEMES

SINCE = datetime(2026, 3, 4, 10, tzinfo=UTC)
PERIOD = cut_period(SINCE, datetime(2026, 3, 4, 10, 4, tzinfo=UTC), is_open=False)
STYLE = Style(THEMES["light"], revision="range=1h")
INDEX = pd.date_range(SINCE, periods=4, freq="1min")


def counts(**columns: list[int]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=INDEX)


def texts(figure: figures.Figure) -> list[str]:
    return [note["text"] for note in figure["layout"].get("annotations", [])]


def test_outcomes_are_stacked_each_in_its_own_colour_with_a_legend():
    figure = figures.draw_outcomes(
        counts(delivered=[5, 0, 0, 1], failed=[0, 2, 0, 0]), PERIOD, STYLE
    )

    assert figure["layout"]["barmode"] == "stack"
    assert figure["layout"]["showlegend"] is True
    assert [trace["name"] for trace in figure["data"]] == ["delivered", "failed"]
    assert [trace["y"] for trace in figure["data"]] == [[5, 0, 0, 1], [0, 2, 0, 0]]
    for trace in figure["data"]:
        assert trace["marker"]["color"] == OUTCOME_COLOURS[trace["meta"]]


def test_bars_begin_at_their_slots_in_utc():
    figure = figures.draw_outcomes(counts(delivered=[1, 0, 0, 0]), PERIOD, STYLE)
    trace = figure["data"][0]

    assert (trace["x0"], trace["dx"]) == ("2026-03-04 10:00:00", 60_000)
    assert trace["offset"] > 0
    assert trace["offset"] + trace["width"] < 60_000
    assert figure["layout"]["xaxis"]["range"] == ["2026-03-04 10:00:00", "2026-03-04 10:04:00"]


def test_blocked_is_told_by_its_pattern_too():
    figure = figures.draw_outcomes(counts(blocked=[1, 0, 0, 0]), PERIOD, STYLE)

    assert figure["data"][0]["marker"]["pattern"]["shape"] == "x"


def test_only_what_is_there_leads_somewhere():
    figure = figures.draw_outcomes(
        counts(failed=[0, 2, 0, 1]),
        PERIOD,
        STYLE,
        find_url=lambda outcome, index: f"/{outcome}/{index}",
    )

    assert figure["data"][0]["customdata"] == [None, "/failed/1", None, "/failed/3"]


def test_a_refresh_keeps_what_the_reader_did_and_another_question_does_not():
    drawn = figures.draw_outcomes(counts(failed=[0, 2, 0, 1]), PERIOD, STYLE)
    other = figures.draw_outcomes(
        counts(failed=[0, 2, 0, 1]), PERIOD, Style(THEMES["light"], revision="range=7d")
    )

    assert drawn["layout"]["uirevision"] == "range=1h"
    assert other["layout"]["uirevision"] == "range=7d"


def test_latency_has_holes_where_nothing_was_sent():
    latency = pd.DataFrame(
        {"mean_ms": [1.5, np.nan, 2, np.nan], "max_ms": [3, np.nan, 4, np.nan]}, index=INDEX
    )

    figure = figures.draw_latency(latency, PERIOD, STYLE)

    assert [trace["y"] for trace in figure["data"]] == [[1.5, None, 2, None], [3, None, 4, None]]
    assert all(trace["connectgaps"] is False for trace in figure["data"])


def test_throughput_is_drawn_in_the_middle_of_its_slots():
    rates = pd.DataFrame(
        {"sends": [1, 2, 0.000123456, np.nan], "records": [0, 0, 0, np.nan]}, index=INDEX
    )

    figure = figures.draw_throughput(rates, PERIOD, STYLE)

    assert figure["data"][0]["x0"] == "2026-03-04 10:00:30"
    assert figure["data"][0]["y"] == [1, 2, 0.0001235, None]
    assert figure["layout"]["yaxis"]["title"]["text"] == "per second"


def test_without_data_every_chart_says_so():
    nothing = pd.DataFrame(index=INDEX)
    nan = pd.DataFrame({"mean_ms": [np.nan] * 4, "max_ms": [np.nan] * 4}, index=INDEX)
    zero = pd.DataFrame({"sends": [0.0] * 3 + [np.nan], "records": [0.0] * 4}, index=INDEX)

    assert texts(figures.draw_outcomes(nothing, PERIOD, STYLE)) == [
        "No requests were sent in this time."
    ]
    assert texts(figures.draw_latency(nan, PERIOD, STYLE))
    assert texts(figures.draw_throughput(zero, PERIOD, STYLE))
    assert texts(figures.draw_completeness(completeness(), STYLE)) == ["No run has finished yet."]


def completeness(*rows: tuple[str, int, int, int, float]) -> pd.DataFrame:
    columns = ["slug", "planned", "delivered", "accepted", "share"]
    frame = pd.DataFrame.from_records(rows, columns=columns)
    return frame.assign(run_id=range(1, len(rows) + 1), state="incomplete")


def test_the_least_complete_source_is_on_top_and_each_bar_leads_to_its_run():
    figure = figures.draw_completeness(
        completeness(("bad", 10, 5, 0, 0.5), ("good", 10, 10, 0, 1.0)),
        STYLE,
        find_url=lambda run_id: f"/runs/{run_id}/",
    )
    trace = figure["data"][0]

    assert trace["y"] == ["good", "bad"]
    assert trace["x"] == [100, 50]
    assert trace["text"] == ["100 %, complete", "50 %, 5 missing"]
    assert trace["customdata"] == ["/runs/2/", "/runs/1/"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            {"share": 99_999 / 100_000, "planned": 100_000, "delivered": 99_999},
            "99.99 %, 1 missing",
        ),
        ({"share": 1 - 1e-9, "planned": 3, "delivered": 3}, "99.99 %, incomplete"),
        ({"share": 0.0, "planned": 12_345, "delivered": 0}, "0 %, 12,345 missing"),
        ({"share": 1.0, "planned": 3, "delivered": 2}, "100 %, complete"),
    ],
)
def test_a_share_is_rounded_down_so_that_only_what_is_complete_says_100(row, text):
    assert figures.describe_share({"accepted": 0, "state": "incomplete", **row}) == text


def test_a_hundred_sources_draw_the_worst_25():
    rows = [(f"s{i:03}", 100, i, 0, i / 100) for i in range(100)]
    frame = completeness(*rows)

    figure = figures.draw_completeness(frame, STYLE)

    assert figure["data"][0]["y"] == [f"s{i:03}" for i in reversed(range(25))]
    assert figures.measure_completeness(frame) == 56 + 25 * 34


@pytest.mark.parametrize("theme", THEMES)
def test_a_figure_is_plain_json_and_takes_its_theme(theme):
    style = Style(THEMES[theme], is_touch=True)
    figure = figures.draw_outcomes(counts(failed=[0, 2, 0, 1]), PERIOD, style)

    assert json.loads(json.dumps(figure)) == figure
    assert figure["layout"]["font"]["color"] == THEMES[theme].text
    # A finger that scrolls the page must not choose a time.
    assert figure["layout"]["dragmode"] is False
    assert figure["layout"]["xaxis"]["fixedrange"] is True


def test_charts_offer_to_send_nothing_to_other_servers():
    assert figures.GRAPH_CONFIG["showSendToCloud"] is False
    assert figures.GRAPH_CONFIG["plotlyServerURL"] == ""
    assert figures.GRAPH_CONFIG["modeBarButtons"] == [["toImage"]]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(60, "1 minute"), (900, "15 minutes"), (10_800, "3 hours"), (86_400, "1 day")],
)
def test_the_width_of_a_bar_is_told_in_words(seconds, text):
    assert figures.describe_width(Period(SINCE, seconds, 1)) == text

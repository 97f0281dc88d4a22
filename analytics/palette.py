"""Colours of the charts.

An outcome has one colour, in both themes and whatever else is drawn. They are Okabe and Ito's
(https://jfly.uni-koeln.de/color/), which people with any of the three colour vision deficiencies
tell apart, and a hatched grey for `blocked`. A test simulates all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ingest.outcomes import Outcome

OUTCOME_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        Outcome.DELIVERED.value: "#009e73",
        Outcome.EMPTY.value: "#f0e442",
        Outcome.MALFORMED.value: "#e69f00",
        Outcome.MISSING.value: "#56b4e9",
        Outcome.DENIED.value: "#cc79a7",
        Outcome.REFUSED.value: "#0072b2",
        Outcome.BLOCKED.value: "#666666",
        Outcome.FAILED.value: "#d55e00",
    }
)
OUTCOME_PATTERNS: Mapping[str, str] = MappingProxyType({Outcome.BLOCKED.value: "x"})


@dataclass(frozen=True, slots=True)
class Theme:
    """What surrounds the data: text, grid lines, the two colours of lines."""

    text: str
    muted: str
    grid: str
    surface: str
    border: str
    first_line: str
    second_line: str


THEMES: Mapping[str, Theme] = MappingProxyType(
    {
        "light": Theme(
            text="#212529",
            muted="#5c636a",
            grid="#e4e7e9",
            surface="#ffffff",
            border="#ced4da",
            first_line="#0072b2",
            second_line="#d55e00",
        ),
        "dark": Theme(
            text="#dee2e6",
            muted="#a7afb7",
            grid="#363c42",
            surface="#1a1e20",
            border="#495057",
            first_line="#56b4e9",
            second_line="#e69f00",
        ),
    }
)


def choose_theme(name: str) -> Theme:
    return THEMES.get(name, THEMES["light"])

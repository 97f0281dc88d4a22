"""Colours that people tell apart, whatever they can see."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from analytics.filters import SEND_OUTCOMES
from analytics.palette import OUTCOME_COLOURS, OUTCOME_PATTERNS, THEMES

# Machado, Oliveira and Fernandes 2009, severity 1.0, in linear RGB.
VISIONS = {
    "all three": np.eye(3),
    "no red": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]]
    ),
    "no green": np.array(
        [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
    "no blue": np.array(
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def test_every_outcome_of_a_send_has_a_colour():
    assert set(OUTCOME_COLOURS) == {outcome.value for outcome in SEND_OUTCOMES}
    assert set(OUTCOME_PATTERNS) <= set(OUTCOME_COLOURS)


@pytest.mark.parametrize("vision", VISIONS)
def test_outcomes_differ_for_every_kind_of_eyes(vision):
    seen = {name: lab(VISIONS[vision] @ linear(c)) for name, c in OUTCOME_COLOURS.items()}

    nearest = min(
        (float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(seen, 2)
    )

    assert nearest[0] >= 15, nearest


@pytest.mark.parametrize("name", THEMES)
def test_text_and_lines_are_read_on_their_surface(name):
    theme = THEMES[name]

    assert contrast(theme.text, theme.surface) >= 7
    assert contrast(theme.muted, theme.surface) >= 4.5
    assert contrast(theme.first_line, theme.surface) >= 3
    assert contrast(theme.second_line, theme.surface) >= 3

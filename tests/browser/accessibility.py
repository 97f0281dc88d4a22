"""axe-core's opinion of a page: the rules of WCAG 2.1, levels A and AA."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from playwright.sync_api import Frame

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")
# A theme that fades in would be measured halfway.
END_ANIMATIONS = """
() => document.getAnimations()
  .filter((animation) => animation.effect.getComputedTiming().endTime !== Infinity)
  .forEach((animation) => animation.finish())
"""
# Charts are thousands of elements; the same numbers stand beside them as tables.
RUN = """
() => axe.run({exclude: ".main-svg"}, {
  iframes: false,
  resultTypes: ["violations"],
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
})
"""


@cache
def read_axe() -> str:
    return AXE.read_text()


def find_violations(frame: Frame) -> list[str]:
    """The serious and critical violations in one frame, each with the elements that it is about."""
    if not frame.evaluate("() => 'axe' in window"):
        frame.evaluate(read_axe())
    frame.evaluate(END_ANIMATIONS)
    return [
        f"{violation['id']} ({violation['impact']}): {node['html']} {node['failureSummary']}"
        for violation in frame.evaluate(RUN)["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]

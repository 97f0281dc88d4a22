"""The rows that benchmarks end in, and the program around a benchmark."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MET, MISSED, REPORTED, NOT_MEASURED = "met", "**missed**", "", "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is ours / peer in the unit that both columns are given in."""

    what: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""
    verdict: str = REPORTED

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return [self.what, self.ours, self.peer, ratio, self.target, self.verdict]


HEADINGS = ["what", "ours", "peer", "ratio", "target", "verdict"]


@dataclass(frozen=True, slots=True)
class Options:
    """`is_quick` only shows that everything runs; `is_long` adds what takes many minutes."""

    is_quick: bool
    is_long: bool

    def choose(self, *, quick: T, normal: T, long: T | None = None) -> T:
        if self.is_quick:
            return quick
        return long if self.is_long and long is not None else normal


def judge(value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    is_met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return MET if is_met else MISSED


def compare(
    what: str,
    *,
    ours: float,
    peer: float,
    unit: str,
    peer_name: str,
    at_least: float | None = None,
    at_most: float | None = None,
    ours_spread: str = "",
    peer_spread: str = "",
) -> Row:
    """A row whose target is about the ratio; without a target it only reports."""
    ratio = ours / peer
    limits = [f"≥ {at_least:g} ×"] if at_least is not None else []
    limits += [f"≤ {at_most:g} ×"] if at_most is not None else []
    return Row(
        what=what,
        ours=f"{show_number(ours)} {unit} {ours_spread}".strip(),
        peer=f"{peer_name} {show_number(peer)} {unit} {peer_spread}".strip(),
        ratio=ratio,
        target=", ".join(limits),
        verdict=judge(ratio, at_least=at_least, at_most=at_most) if limits else REPORTED,
    )


def show_number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def show_spread(values: Sequence[float]) -> str:
    """The least and greatest of several repeats; nothing for a single one."""
    if len(values) < 2:
        return ""
    return f"({show_number(min(values))}–{show_number(max(values))})"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def quantile(values: Iterable[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def print_table(rows: Sequence[Row]) -> None:
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(HEADINGS))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def write_markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def run_benchmark(about: str | None, measure: Callable[[Options], list[Row]]) -> None:
    """The program around one benchmark module."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small: shows that it runs")
    parser.add_argument("--long", action="store_true", help="adds what takes many minutes")
    parser.add_argument("--json", type=Path, help="writes the rows there as well")
    given = parser.parse_args()
    rows = measure(Options(is_quick=given.quick, is_long=given.long))
    print_table(rows)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], ensure_ascii=False))


def read_rows(path: Path) -> list[Row]:
    return [Row(**fields) for fields in json.loads(path.read_text())]

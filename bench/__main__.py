"""All benchmarks, one after the other, and bench/results.md.

    uv run --group bench python -m bench [--quick | --long] [NAME…]

Each runs in a process of its own. One that fails is a row that says so, and the end is not 0; a
missed target is no failure, it is a result.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.table import MISSED, NOT_MEASURED, Row, print_table, read_rows, say, write_markdown

MODULES = (
    "ingest",
    "memory",
    "freshness",
    "search_quality",
    "endpoint",
    "bulk",
    "storm",
    "growth",
    "limits",
    "dashboard",
)
RESULTS = Path(__file__).parent / "results.md"
PACKAGES = (
    *("aiohttp", "uvloop", "Django", "celery", "pandas", "tantivy", "elasticsearch", "psycopg"),
    *("Scrapy", "dlt", "rapidfuzz"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small: shows that everything runs")
    parser.add_argument("--long", action="store_true", help="adds what takes many minutes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    given = parser.parse_args()
    if unknown := set(given.names) - set(MODULES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    flags = [f"--{name}" for name in ("quick", "long") if getattr(given, name)]
    names = given.names or MODULES
    facts = describe_machine(flags)
    rows: list[Row] = []
    loads: list[str] = []
    for name in names:
        loads.append(f"{name} {os.getloadavg()[0]:.1f}")
        rows += run_module(name, flags)
    print_table(rows)
    facts += f"Load average (1 minute) before each: {', '.join(loads)}.\n"
    if given.names or given.quick:
        say("A part only: bench/results.md stays as it is.")
    else:
        given.output.write_text(write_results(facts, rows))
    return 1 if any(row.ours.startswith("FAILED") for row in rows) else 0


def run_module(name: str, flags: list[str]) -> list[Row]:
    say(f"{name} …")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"bench.{name}", "--json", str(path), *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        say(f"{name}: {time.monotonic() - began:.0f} s")
        if done.returncode:
            return [Row(name, f"FAILED with exit code {done.returncode}", verdict=MISSED)]
        return read_rows(path)


def describe_machine(flags: list[str]) -> str:
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `python -m {' '.join(['bench', *flags])}`.\n"
        f"{read_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.platform()}; "
        f"Python {platform.python_version()}; {versions}.\n"
        f"Load average at the start: {', '.join(f'{each:.1f}' for each in os.getloadavg())}.\n"
    )


def read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_results(facts: str, rows: list[Row]) -> str:
    missed = sum(row.verdict == MISSED for row in rows)
    met = sum(row.verdict == "met" for row in rows)
    unmeasured = sum(row.verdict == NOT_MEASURED for row in rows)
    return (
        "# Speed beside peers\n\n"
        "Written by `make bench`; what each row means stands at the top of its module in `bench/`, "
        "and why it is measured so in docs/decisions/0062.\n"
        "`ratio` is ours / peer, of medians of measurements taken in turns; "
        "(least–greatest) of the repeats in brackets.\n\n"
        f"{facts}\n"
        f"{met} targets met, {missed} missed, {unmeasured} not measured.\n\n"
        f"{write_markdown(rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())

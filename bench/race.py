"""How the contestants of the ingest race are run: a program each, a line of JSON at its end."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONCURRENCY = 50


def run_contestant(
    name: str, address: str, sizes: Sequence[int], **environment: str
) -> dict[str, Any]:
    """{"seconds": {size: seconds}, …} of `python -m bench.contestants.<name>`."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"bench.contestants.{name}", address),
            *("--sizes", ",".join(map(str, sizes))),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **environment},  # noqa: TID251 - handed on, not read
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed ({done.returncode}):\n{done.stdout[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["seconds"] = {int(size): seconds for size, seconds in found["seconds"].items()}
    return found


def compete(run: Callable[[str, int, Path], int]) -> None:
    """The program around a contestant: `run(address, size, folder)` gives how many it has.

    Timed inside the program: starting Python and importing is nobody's business here.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--sizes", required=True)
    given = parser.parse_args()
    seconds = {}
    for size in map(int, given.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="gleaner-bench-") as folder:
            began = time.perf_counter()
            count = run(given.address, size, Path(folder))
            seconds[size] = time.perf_counter() - began
        if count != size:
            raise RuntimeError(f"{count} of {size} came")
    report(seconds)


def report(seconds: Mapping[int, float], **more: Any) -> None:
    print(json.dumps({"seconds": seconds, **more}), flush=True)

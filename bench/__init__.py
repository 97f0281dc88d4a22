"""Speed beside peers: `make bench` runs all of it and writes bench/results.md.

Each module is also a program: `uv run --group bench python -m bench.ingest [--quick | --long]`.
What is compared is measured in turns (ours, peer, ours, peer, …) and judged by the ratio of the
medians, so that a slow or busy machine slows both. See docs/decisions/0062.
"""

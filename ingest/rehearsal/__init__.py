"""A rehearsal upstream: real cities behind a server that misbehaves on purpose, and admits it.

`GET /cities/{id}` serves one GeoNames city per request, the most populous first. A named `Profile`
says how many of the ids misbehave and how; which id does what follows from a seeded hash of the id,
so it is the same in every process. `GET /truth` tells what the server really answered, so that
somebody else's report can be checked against it; `POST /reset` forgets it all.

Used by `make demo`, the tests and the benchmarks. Needs the dependency group `demo`.
"""

from ingest.rehearsal.cities import CitiesUnavailable, load_cities
from ingest.rehearsal.misbehaviour import PROFILES, Misbehaviour, Profile, Rule, assign_rules
from ingest.rehearsal.server import (
    DEFAULT_COUNT,
    UPSTREAM,
    Upstream,
    make_app,
    serve_in_thread,
    start_site,
)

__all__ = [
    "DEFAULT_COUNT",
    "PROFILES",
    "UPSTREAM",
    "CitiesUnavailable",
    "Misbehaviour",
    "Profile",
    "Rule",
    "Upstream",
    "assign_rules",
    "load_cities",
    "make_app",
    "serve_in_thread",
    "start_site",
]

"""The dashboard's callback on a portal of a given size: times one for each line on stdin.

    python -m bench.contestants.dashboard DAYS

A line is the query string of the page; the answer is a line with milliseconds. The first line out
says that everything is there.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta

from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from bench import own_portal

# isort: split
from analytics.dashboards import health
from bench.contestants.gleaner import describe_source
from ingest import services
from ingest.models import Bucket, Run
from ingest.outcomes import Outcome, RunState

RUN_ROWS = 4_000
FAILED_ROWS = 100
DAY_RUNS = 24

_ROWS = """
INSERT INTO ingest_request
    (run_id, position, key, role, outcome, attempts, pass_attempts, backoff_step, status_code,
     latency_ms, record_count, error, evidence, finished_at, due_at, slice_id)
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s - 1)
SELECT run.id, n, n, '', CASE WHEN n < %s THEN 'failed' ELSE 'delivered' END, 1, 1, 0, 200,
       5.0, 1, '', NULL, run.finished_at, NULL, NULL
FROM ingest_run AS run CROSS JOIN numbers
"""


def fill(source_id: int, now: datetime, *, runs: int) -> None:
    """A finished run for each hour before `now`."""
    begins = [now - timedelta(hours=hour + 1) for hour in range(runs)]
    Run.objects.bulk_create(
        [
            Run(
                source_id=source_id,
                state=RunState.COMPLETE,
                configuration={"version": 1, "source": {}},
                planned_total=RUN_ROWS,
                delivered_count=RUN_ROWS - FAILED_ROWS,
                failed_count=FAILED_ROWS,
                started_at=begin,
                finished_at=begin + timedelta(hours=1),
            )
            for begin in begins
        ],
        batch_size=500,
    )
    run_ids = Run.objects.order_by("pk").values_list("pk", flat=True)
    for run_id, begin in zip(run_ids, begins, strict=True):
        Bucket.objects.bulk_create(
            [
                Bucket(
                    source_id=source_id,
                    run_id=run_id,
                    started_at=begin + timedelta(minutes=minute),
                    outcome=outcome,
                    sends=sends,
                    records=sends,
                    latency_ms_sum=5.0 * sends,
                    latency_ms_max=9.0,
                )
                for minute in range(60)
                for outcome, sends in ((Outcome.DELIVERED, 65), (Outcome.FAILED, 2))
            ]
        )
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, [RUN_ROWS, FAILED_ROWS])
        cursor.execute("ANALYZE")


def time_callback(client: Client, url: str, search: str) -> float:
    """Milliseconds from the request to the JSON of all figures."""
    outputs = list_outputs()
    body = {
        "output": ".." + "...".join(f"{each['id']}.{each['property']}" for each in outputs) + "..",
        "outputs": outputs,
        "inputs": [
            {
                "id": "question",
                "property": "data",
                "value": {"search": search, "theme": "light", "touch": False},
            }
        ],
        "changedPropIds": ["question.data"],
    }
    began = time.perf_counter()
    response = client.post(url, json.dumps(body), content_type="application/json")
    took = time.perf_counter() - began
    assert response.status_code == 200, response.content[:500]
    return took * 1000


def list_outputs() -> list[dict[str, str]]:
    return [
        *({"id": name, "property": "figure"} for name in health._CHARTS),
        {"id": "completeness", "property": "style"},
        {"id": "totals", "property": "children"},
        {"id": "status", "property": "children"},
    ]


def main() -> None:
    own_portal.migrate()
    with own_portal.run_programs("redis"):
        user = own_portal.make_user()
        data = describe_source("cities", "http://127.0.0.1:9", RUN_ROWS)
        source = services.create_source(owner=user, data=data)
        now = timezone.now().replace(minute=0, second=0, microsecond=0)
        fill(source.pk, now, runs=int(sys.argv[1]) * DAY_RUNS)
        client = Client(HTTP_HOST="localhost")
        client.force_login(user)
        url = reverse("the_django_plotly_dash:app-update-component", kwargs={"ident": health.NAME})
        print("ready", flush=True)
        for line in sys.stdin:
            print(time_callback(client, url, line.strip()), flush=True)


if __name__ == "__main__":
    main()

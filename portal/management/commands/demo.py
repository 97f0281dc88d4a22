"""`manage.py demo`: everything at once, on real data from a server that misbehaves.

Runs the portal together with the rehearsal upstream, sends 10,000 requests, prints the
reconciliation report and holds it against what the upstream says about itself.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import time
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser

from ingest.models import Run, Source
from ingest.outcomes import FINAL_STATES, Outcome
from ingest.rehearsal import DEFAULT_COUNT, PROFILES
from portal.accounts.models import User
from portal.config import Config
from portal.management.commands.up import Command as UpCommand
from portal.processes import (
    HOST,
    Portal,
    ProcessesError,
    Program,
    describe_elasticsearch,
    fetch_elasticsearch,
    find_free_port,
    hold_data_folder,
    list_programs,
    run_portal,
)

SLUG = "cities"
EMAIL = "demo@gleaner.invalid"
PASSWORD_FILE = "demo-password"  # noqa: S105 - a file's name
RUN_TIMEOUT_SECONDS = 600.0
INDEX_TIMEOUT_SECONDS = 120.0


class Command(UpCommand):
    help = "Run the portal on 10,000 real cities from a misbehaving upstream; report; stay up."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--once", action="store_true", help="end after the report")
        parser.add_argument("--count", type=int, default=DEFAULT_COUNT, help="number of requests")
        parser.add_argument("--profile", default="unruly", choices=sorted(PROFILES))
        parser.add_argument(
            "--search",
            default="",
            help="the search engine: tantivy (embedded), or elasticsearch: starts a server of that "
            "unless ELASTICSEARCH_URL names one",
        )
        # How this command tells itself, started anew, to run the server that its settings name.
        parser.add_argument("--search-port", type=int, default=0, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        config: Config = settings.GLEANER
        check_search(config, options["search"])
        try:
            start_anew_where_needed(config, options)
            with hold_data_folder(config.data_dir):
                self.clear_the_way(config)
                if options["search_port"]:
                    self.say("Looking for an Elasticsearch to start …")
                    fetch_elasticsearch()
                self.set_up(config)
                is_proved = self.run_demo(config, options)
                self.say("Stopped.")
        except ProcessesError as error:
            raise CommandError(str(error)) from error
        if not is_proved:
            raise CommandError("The report above does not hold.")

    def run_demo(self, config: Config, options: Mapping[str, Any]) -> bool:
        """Whether the report held; stopped before it: true, unless it was all that counts."""
        is_fine_unproved = not options["once"]
        port = find_free_port(config.port + 900 if config.port < 64_000 else 8900)
        upstream = Program(
            "upstream",
            [
                *(sys.executable, "manage.py", "rehearsal", "--port", str(port)),
                *("--profile", options["profile"], "--count", str(options["count"])),
            ],
            "the rehearsal upstream: real cities, a misbehaving server",
        )
        programs = [*list_programs(config), upstream]
        if options["search_port"]:
            programs.insert(0, describe_elasticsearch(config, options["search_port"]))
        with run_portal(config, programs) as portal:
            self.introduce(portal)
            if not self.wait_until_ready(portal, options["ready_timeout"]):
                return is_fine_unproved
            wait_for_upstream(portal, port)
            user, password = ensure_demo_user(config)
            run = self.start_run(portal, user=user, port=port, count=options["count"])
            if run is None or not self.follow(portal, run):
                return is_fine_unproved
            is_proved = self.report(portal, run, port)
            self.say(
                f"\nOpen {portal.address}\n  sign in as {EMAIL}\n  password    {password}"
                f"\n  (kept in {config.data_dir / PASSWORD_FILE})"
            )
            if not options["once"]:
                self.say("\nEverything stays up until Ctrl-C.")
                portal.wait()
            self.say("Stopping …")
        return is_proved

    # The run ------------------------------------------------------------------------------------

    def start_run(self, portal: Portal, *, user: User, port: int, count: int) -> Run | None:
        """A new run of the source `cities`; None when somebody asked to stop meanwhile."""
        from ingest import services

        source = Source.objects.filter(slug=SLUG, archived_at__isnull=True).first()
        if source is None:
            source = services.create_source(owner=user, data=describe_source(port, count))
        else:
            if not self.finish_active_run(portal, source):
                return None
            source = services.update_source(source=source, patch=describe_source(port, count))
        return services.start_run(source=source, user=user)

    def finish_active_run(self, portal: Portal, source: Source) -> bool:
        """Cancels what an earlier demo left unfinished; false when somebody asked to stop."""
        from ingest import services

        active = source.runs.exclude(state__in=FINAL_STATES).first()
        if active is None:
            return True
        self.say(f"Cancelling run {active.pk}, which an earlier demo left unfinished …")
        services.cancel_run(run=active)
        deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
        while not portal.is_stopping:
            active.refresh_from_db()
            if active.is_finished:
                return True
            if time.monotonic() > deadline:
                raise ProcessesError(f"Run {active.pk} does not end.")
            portal.pause(0.3)
        return False

    def follow(self, portal: Portal, run: Run) -> bool:
        """Shows the progress of the run to its end; false when somebody asked to stop."""
        from ingest.reports import follow_run

        deadline = time.monotonic() + RUN_TIMEOUT_SECONDS

        def may_go_on() -> bool:
            if time.monotonic() > deadline:
                raise ProcessesError(
                    f"Run {run.pk} did not end in {RUN_TIMEOUT_SECONDS:.0f} s "
                    f"(state: {run.state}).\n{portal.read_log_tail('worker-fetch')}"
                )
            return not portal.is_stopping

        self.say(f"\nRun {run.pk}: {run.planned_total:,} requests to {SLUG}")
        return follow_run(run, say=self.say, pause=portal.pause, may_go_on=may_go_on)

    # The report ---------------------------------------------------------------------------------

    def report(self, portal: Portal, run: Run, port: int) -> bool:
        """Prints the reconciliation beside the upstream's truth; says whether all of it holds."""
        from ingest.reconcile import reconcile_run
        from ingest.reports import write_report
        from search.services import wait_until_indexed

        pending = wait_until_indexed(INDEX_TIMEOUT_SECONDS)
        report = reconcile_run(run)
        truth = ask_upstream(port, "/truth")
        self.say("")
        for line in write_report(run, report, upstream_says=truth["outcomes"]):
            self.say(line)
        problems = find_problems(report.as_dict(), truth, pending)
        self.say_comparison(problems)
        if report.missing:
            self.say(f"  All gaps by name: {portal.address}runs/{run.pk}/")
        self.say_times(run, truth)
        return not problems

    def say_comparison(self, problems: list[str]) -> None:
        if not problems:
            self.say("  The upstream says the same: every outcome and every named gap agrees.")
        for problem in problems:
            self.say(f"  DOES NOT HOLD: {problem}")

    def say_times(self, run: Run, truth: Mapping[str, Any]) -> None:
        waits, requests = truth["waits"], truth["requests"]
        seconds = 0.0
        if run.started_at and run.finished_at:
            seconds = (run.finished_at - run.started_at).total_seconds()
        rate = f", {run.planned_total / seconds:,.0f} requests/s" if seconds else ""
        self.say(
            f"  run: {seconds:.1f} s{rate}; the upstream saw {requests['total']:,} sends, at most "
            f"{requests['peak_per_second']:,} in any second"
        )
        self.say(
            f"  waits that the upstream asked for: {waits['named']:,} named delays, "
            f"{waits['honoured']:,} honoured, {waits['violated']:,} not; "
            f"{waits['seconds_named']:.0f} s summed over all rows, "
            f"{waits['idle_seconds']:.1f} s of the run in which only they were waited for"
        )


def check_search(config: Config, search: str) -> None:
    if search not in ("", "tantivy", "elasticsearch"):
        raise CommandError(f"SEARCH={search}: neither tantivy nor elasticsearch.")
    if search == "tantivy" and config.elasticsearch.hosts:
        raise CommandError("SEARCH=tantivy, but ELASTICSEARCH_URL is set: leave one of them out.")


def start_anew_where_needed(config: Config, options: Mapping[str, Any]) -> None:
    """Starts this command anew with the settings of the demo, for it and all its processes.

    They are: loopback upstreams allowed; the address of the Elasticsearch that it will start.
    """
    added: dict[str, str] = {}
    arguments: list[str] = []
    if not config.allow_private_upstreams:
        added["PORTAL_ALLOW_PRIVATE_UPSTREAMS"] = "1"
    if options["search"] == "elasticsearch" and not config.elasticsearch.hosts:
        port = find_free_port(config.port + 1200 if config.port < 64_000 else 9200)
        added["ELASTICSEARCH_URL"] = f"http://{HOST}:{port}"
        arguments = ["--search-port", str(port)]
    if added:
        environment = {**os.environ, **added}  # noqa: TID251 - handed on, not read
        command = [sys.executable, *sys.argv, *arguments]
        os.execve(sys.executable, command, environment)  # noqa: S606 - ourselves


def describe_source(port: int, count: int) -> dict[str, Any]:
    """The configuration of the demo's source."""
    return {
        "slug": SLUG,
        "name": "Cities",
        "request": {"url": f"http://{HOST}:{port}/cities/{{id}}", "timeout_seconds": 10},
        "plan": {"type": "range", "name": "id", "start": 1, "stop": count},
        "records": {
            "path": "data",
            "key": "id",
            "title": "name",
            "body": ["country", "alternate_names"],
            "occurred_at": "updated_at",
            "weight": "population",
        },
        # Quick, yet slow enough that there is something to watch.
        "limits": {"per_second": 800, "concurrency": 50, "deadline_seconds": 600},
        "retry": {"attempts": 5, "base_seconds": 0.5, "cap_seconds": 30, "sweeps": 1},
    }


def ensure_demo_user(config: Config) -> tuple[User, str]:
    """The demo's administrator and the password, which a file in the data folder keeps."""
    path = config.data_dir / PASSWORD_FILE
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(12) + "\n")
    password = path.read_text(encoding="utf-8").strip()
    user, _ = get_user_model().objects.get_or_create(email=EMAIL)
    user.is_staff = user.is_superuser = user.is_active = True
    if not user.check_password(password):
        user.set_password(password)
    user.save()
    return user, password


def wait_for_upstream(portal: Portal, port: int) -> None:
    deadline = time.monotonic() + 60
    while not portal.is_stopping:
        try:
            ask_upstream(port, "/health")
        except (OSError, http.client.HTTPException, ValueError):
            if time.monotonic() > deadline:
                raise ProcessesError(
                    f"The rehearsal upstream does not answer.\n{portal.read_log_tail('upstream')}"
                ) from None
            portal.pause(0.2)
        else:
            return


def ask_upstream(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer


def group_gaps(missing: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The cities that the report names as missing, by outcome."""
    gaps: dict[str, list[int]] = {}
    for gap in missing:
        gaps.setdefault(gap["outcome"], []).append(int(gap["key"]))
    return {outcome: sorted(numbers) for outcome, numbers in gaps.items()}


def find_problems(
    books: Mapping[str, Any],
    truth: Mapping[str, Any],
    pending: int,
) -> list[str]:
    """Everything in which the report contradicts itself or the upstream."""
    problems = []
    outcomes = Counter(books["outcomes"])
    if outcomes.total() != books["planned"]:
        problems.append(f"planned {books['planned']}, but Σ outcomes {outcomes.total()}")
    if books["unknown"] or outcomes[Outcome.PLANNED]:
        problems.append(f"unknown {books['unknown']}, never answered {outcomes[Outcome.PLANNED]}")
    if +outcomes != +Counter(truth["outcomes"]):
        problems.append("the upstream counts other outcomes")
    if group_gaps(books["missing"]) != truth["gaps"]:
        problems.append("the named gaps are not those of the upstream")
    if books["stored"] != books["distinct_keys"] or books["not_stored"]:
        problems.append(f"{len(books['not_stored'])} delivered records are not stored")
    if pending or books["not_indexed"] or books["indexed"] != books["stored"]:
        problems.append(f"{pending} documents pending, {show(books['not_indexed'])} not indexed")
    return problems


def show(value: Any) -> str:
    if value is None:
        return "an unknown number"
    return f"{value:,}" if isinstance(value, int) else f"{len(value):,}"

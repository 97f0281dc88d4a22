"""`manage.py up`: all processes of the portal, in the foreground, until Ctrl-C."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from portal.config import Config
from portal.processes import (
    Portal,
    ProcessesError,
    check_port,
    end_marked,
    hold_data_folder,
    list_programs,
    run_portal,
)


class Command(BaseCommand):
    help = "Set up and run all processes of the portal until Ctrl-C."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--ready-timeout",
            type=float,
            default=120.0,
            metavar="SECONDS",
            help="give up when the portal is not ready after so long",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        config: Config = settings.GLEANER
        try:
            with hold_data_folder(config.data_dir):
                self.clear_the_way(config)
                self.set_up(config)
                with run_portal(config, list_programs(config)) as portal:
                    self.introduce(portal)
                    if self.wait_until_ready(portal, options["ready_timeout"]):
                        self.say(f"Ready: {portal.address}  (Ctrl-C stops everything)")
                        portal.wait()
                    self.say("Stopping …")
                self.say("Stopped.")
        except ProcessesError as error:
            raise CommandError(str(error)) from error

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def clear_the_way(self, config: Config) -> None:
        left_over = end_marked(config.data_dir)
        if left_over:
            self.say(f"Ended {left_over} processes that an earlier start left behind.")
        check_port(config.port)

    def set_up(self, config: Config) -> None:
        """Database and static files; quick when there is nothing to do. Raises ProcessesError."""
        self.say("Setting up …")
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            raise ProcessesError(f"DATABASE_URL: the database cannot be used: {error}") from error
        if not config.is_local:  # there they are served from where they lie
            call_command("collectstatic", verbosity=0, interactive=False)

    def introduce(self, portal: Portal) -> None:
        self.say(f"Starting (data and logs: {portal.config.data_dir}):")
        for program in portal.programs:
            self.say(f"  {program.name:<13} {program.about}")

    def wait_until_ready(self, portal: Portal, timeout_seconds: float) -> bool:
        return portal.wait_until_ready(
            timeout_seconds=timeout_seconds,
            report=lambda missing: self.say(f"  waiting for: {missing}"),
        )

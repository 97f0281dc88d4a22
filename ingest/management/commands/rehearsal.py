"""`manage.py rehearsal`: the rehearsal upstream as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvloop
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ingest.rehearsal import (
    DEFAULT_COUNT,
    PROFILES,
    CitiesUnavailable,
    make_app,
    start_site,
)


class Command(BaseCommand):
    help = "Serve real cities from a server that misbehaves on purpose, and can tell how."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8900, help="0 takes a free one")
        parser.add_argument(
            "--profile",
            default="unruly",
            choices=sorted(PROFILES),
            help="; ".join(f"{profile.name}: {profile.about}" for profile in PROFILES.values()),
        )
        parser.add_argument("--count", type=int, default=DEFAULT_COUNT, help="number of cities")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            app = make_app(profile=options["profile"], count=options["count"])
        except CitiesUnavailable as error:
            raise CommandError(str(error)) from error
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(app, options))

    async def _serve(self, app: Any, options: dict[str, Any]) -> None:
        host: str = options["host"]
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            runner, port = await start_site(app, host=host, port=options["port"])
        except OSError as error:
            raise CommandError(f"Cannot listen on {host}:{options['port']}: {error}") from error
        self.stdout.write(
            f"Rehearsal upstream ({options['profile']}, {options['count']} cities): "
            f"http://{host}:{port}/cities/1 - the truth about it: http://{host}:{port}/truth"
        )
        self.stdout.flush()
        try:
            await stop.wait()
        finally:
            await runner.cleanup()

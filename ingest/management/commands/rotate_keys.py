"""Re-encrypts every stored secret with the first of PORTAL_ENCRYPTION_KEYS."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ingest import services


class Command(BaseCommand):
    help = (
        "Re-encrypts every stored secret with the first of PORTAL_ENCRYPTION_KEYS, so that the "
        "others can be taken away. Runs may go on meanwhile."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        unreadable: list[str] = []
        count = 0
        for source in services.sources_with_secrets():
            try:
                services.rotate_secrets(source)
                count += 1
            except ImproperlyConfigured:
                unreadable.append(source.slug)
        self.stdout.write(f"{count} sources are sealed with the first key.")
        if unreadable:
            raise CommandError(
                "None of PORTAL_ENCRYPTION_KEYS opens the secrets of: " + ", ".join(unreadable)
            )

"""manage.py search_index: stands in the way of django-elasticsearch-dsl's command of that name.

That one deletes the index that answers before it fills another, and knows no alias of ours.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Not used here: see rebuild_index."

    def run_from_argv(self, argv: list[str]) -> None:
        super().run_from_argv(argv[:2])  # whatever the other command was asked for

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError("The index is kept by the outbox. To fill it anew: rebuild_index.")

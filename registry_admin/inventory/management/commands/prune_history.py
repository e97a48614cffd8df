"""`manage.py prune_history`: forgets what was done and how health went long ago, as the watcher does once a day."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError, RegistryError
from registry_admin.inventory import history
from registry_admin.inventory.conf import conf
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile.rendering import visible


class Command(BaseCommand):
    """Runs and changes of health; declarations and what Consul has now are never touched."""

    help = "Deletes sync runs and health transitions that are older than REGISTRY_HISTORY_KEPT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How old, and whether for real."""
        parser.add_argument(
            "--older-than", metavar="DURATION", help="Such as 720h; REGISTRY_HISTORY_KEPT unless given."
        )
        parser.add_argument("--dry-run", action="store_true", help="Only say how many there are.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for a bad duration, and where the database is away."""
        try:
            kept = timedelta(seconds=_seconds(options["older_than"]))
            with database_errors():
                counts = history.prune(kept, dry_run=options["dry_run"])
        except RegistryError as error:
            raise CommandError(visible(str(error))) from error
        verb = "would delete" if options["dry_run"] else "deleted"
        self.stdout.write(f"{verb} {counts['runs']} run(s) and {counts['transitions']} health transition(s)")


def _seconds(older_than: str | None) -> float:
    if older_than is None:
        return conf.history_kept_s
    try:
        return validation.seconds(validation.duration(older_than, "older_than", minimum_s=0.0, maximum_s=1e9))
    except InvalidValueError as error:
        raise InvalidValueError("--older-than", older_than, error.reason) from None

"""`manage.py prune_history`: deletes old history, as the leading watcher does every hour."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError, RegistryError
from registry_admin.inventory.conf import conf
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.sync import runs
from registry_admin.printable import escape_unprintable

LABELS = {
    "runs": "run(s)",
    "transitions": "health transition(s)",
    "gaps": "observation gap(s)",
    "calls": "call count(s)",
    "audit_events": "audit event(s)",
    "sessions": "ended session(s)",
    "login_counts": "expired login count(s)",
}


class Command(BaseCommand):
    """Deletes history only, never declarations or the mirror of Consul."""

    help = (
        "Deletes sync runs, health transitions, observation gaps and call counts older than REGISTRY_HISTORY_KEPT, and "
        "what logins have left."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument(
            "--older-than", metavar="DURATION", help="Such as 720h; REGISTRY_HISTORY_KEPT unless given."
        )
        parser.add_argument("--dry-run", action="store_true", help="Only say how many there are.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for an invalid duration or an unavailable database."""
        try:
            age = timedelta(seconds=_seconds(options["older_than"]))
            with database_errors():
                counts = runs.prune_history(age, dry_run=options["dry_run"])
        except RegistryError as error:
            raise CommandError(escape_unprintable(str(error))) from error
        verb = "would delete" if options["dry_run"] else "deleted"
        *parts, last = (f"{count} {LABELS.get(kind, kind)}" for kind, count in counts.items())
        self.stdout.write(f"{verb} {', '.join(parts)} and {last}")


def _seconds(older_than: str | None) -> float:
    if older_than is None:
        return conf.history_retention_s
    try:
        return validation.seconds(validation.duration(older_than, "older_than", minimum_s=0.0, maximum_s=1e9))
    except InvalidValueError as error:
        raise InvalidValueError("--older-than", older_than, error.reason) from None

"""`manage.py adopt_registry`: declares instances that others registered, as they are in Consul."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import ObservedInstance
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.adoption import adopt, preview_adoption
from registry_admin.inventory.sync.result import sync_problems
from registry_admin.printable import escape_unprintable


class Command(BaseCommand):
    """Prints field by field what adopting would change, and adopts; Consul is synced once afterwards."""

    help = "Adopts instances that are in Consul and not declared here. Their checks stay as they are."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("id", nargs="*", help="Service IDs, as the last look at Consul has seen them.")
        parser.add_argument("--service", action="append", default=[], metavar="NAME", help="All instances of this one.")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would change.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError where nothing is chosen or known, and SystemExit(1) where anything was left alone."""
        try:
            with database_errors():
                self._adopt(options["id"], options["service"], dry_run=options["dry_run"])
        except DatabaseUnavailableError as error:
            raise CommandError(escape_unprintable(str(error))) from error

    def _adopt(self, ids: list[str], services: list[str], *, dry_run: bool) -> None:
        chosen = Q(consul_id__in=ids) | Q(service_name__in=services)
        rows = list(ObservedInstance.objects.filter(chosen, declared=False))
        if not rows:
            raise CommandError(
                "No instance in Consul that isn't declared has such an ID or service. See sync_registry."
            )
        previews = preview_adoption(rows)
        for preview in previews:
            self.stdout.write(
                escape_unprintable(f"  {'·' if preview.refusal else '+'} {preview.consul_id}: {preview.text}")
            )
        if dry_run:
            self.stdout.write("Dry run: nothing was changed.")
            return
        with on_commit.syncing_on_commit() as outcomes:
            handover = adopt(rows)
        self.stdout.write(f"{len(handover.done)} of {len(rows)} adopted.")
        problems = [problem for outcome in outcomes for problem in sync_problems(outcome)]
        for problem in problems:
            self.stderr.write(escape_unprintable(f"Declared, but not synced: {problem}"))
        if handover.refused or problems:
            sys.exit(1)

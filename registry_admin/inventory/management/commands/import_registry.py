"""`manage.py import_registry`: takes a document of declarations, all of it or nothing."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory import services
from registry_admin.inventory.exchange import DocumentError, Import, prepare_import
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile.rendering import visible

_SIGNS = {"create": "+", "change": "~", "delete": "-"}


class Command(BaseCommand):
    """Says what changes, item by item, and does it in one transaction; Consul is synced once after it."""

    help = "Imports declared services and instances from YAML or JSON, as export_registry writes them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What, and whether for real."""
        parser.add_argument("file", help="A file, or - for standard input.")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would change.")
        parser.add_argument("--delete-others", action="store_true", help="Also delete what the document doesn't name.")
        parser.add_argument("--json", action="store_true", help="The changes as JSON on standard output.")
        parser.add_argument(
            "--detailed-exitcode", action="store_true", help="0: nothing to change; 1: error; 2: changes."
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError with every problem of the document, and where the database is away."""
        try:
            with database_errors():
                found = prepare_import(_read(options["file"]), delete_others=options["delete_others"])
                self._print(found, as_json=options["json"])
                if not options["dry_run"]:
                    with services.collected_outcomes() as outcomes:
                        found.apply()
                    for outcome in outcomes:
                        if outcome.error:
                            self.stderr.write(visible(f"Imported, but not synced yet: {outcome.error}"))
        except DocumentError as error:
            problems = "\n".join(f"  {visible(str(problem))}" for problem in error.problems)
            raise CommandError(f"Nothing was imported:\n{problems}") from error
        except StoreUnavailableError as error:
            raise CommandError(visible(str(error))) from error
        if options["detailed_exitcode"] and found.changes:
            sys.exit(2)

    def _print(self, found: Import, *, as_json: bool) -> None:
        if as_json:
            changes = [change.__dict__ for change in found.changes]
            self.stdout.write(json.dumps({"changes": changes, "unchanged": found.unchanged}, indent=2))
            return
        for change in found.changes:
            self.stdout.write(visible(f"  {_SIGNS[change.action]} {change.kind} {change.name}"))
            if change.action == "change":
                for name, before, after in change.fields:
                    told = (
                        f"{name}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(after, ensure_ascii=False)}"
                    )
                    self.stdout.write(f"      {visible(told)}")
        self.stdout.write(f"Import: {found.summary}")


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(visible(f"{name} can't be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise CommandError(visible(f"{name} is not in UTF-8")) from error

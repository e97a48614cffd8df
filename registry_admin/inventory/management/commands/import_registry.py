"""`manage.py import_registry`: imports a document of declarations, all of it or nothing."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.exchange import DocumentError, Import, prepare_import
from registry_admin.inventory.exchange.consul_preview import preview_in_consul
from registry_admin.inventory.exchange.formats import CONSUL_LABELS, LABELS
from registry_admin.inventory.exchange.limits import MAX_BYTES, TOO_LARGE
from registry_admin.inventory.exchange.removals import approve_import_removals, preview_import_removals
from registry_admin.inventory.management.terminal import Terminal
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.removals import RemovalPreview
from registry_admin.inventory.sync.result import SyncResult, sync_problems
from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.conclusion import BY_SEVERITY, Conclusion

_SIGNS = {"create": "+", "change": "~", "delete": "-"}


class Command(BaseCommand):
    """Prints the changes and makes them in one transaction; Consul is synced once afterwards."""

    help = f"Imports declarations from {LABELS}, as export_registry writes them, or from {CONSUL_LABELS}."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the arguments."""
        parser.add_argument("file", help="A file, or - for standard input.")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would change.")
        parser.add_argument("--delete-others", action="store_true", help="Also delete what the document doesn't name.")
        parser.add_argument(
            "--allow-empty", action="store_true", help="With --delete-others, take a document that lists no service."
        )
        parser.add_argument(
            "--expect-removals",
            type=int,
            metavar="N",
            help="Import only if just N instances leave Consul by it; needed where the brake would hold them.",
        )
        parser.add_argument("--json", action="store_true", help="The changes as JSON on standard output.")
        parser.add_argument(
            "--detailed-exitcode", action="store_true", help="0: nothing to change; 1: error; 2: changes."
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError with all problems of the document, or for an unavailable database."""
        try:
            with database_errors():
                prepared = prepare_import(
                    _read(options["file"]),
                    delete_unlisted=options["delete_others"],
                    allow_empty=options["allow_empty"],
                )
                removals = preview_import_removals(prepared)
                in_consul = preview_in_consul(prepared) if options["dry_run"] and prepared.changes else None
                self._print(prepared, removals, in_consul, as_json=options["json"])
                if problem := _removal_problem(removals, expected=options["expect_removals"]):
                    self.stderr.write(escape_unprintable(problem))
                    sys.exit(Conclusion.HELD)
                outcomes = [] if options["dry_run"] else _apply(prepared, removals)
        except DocumentError as error:
            problems = "\n".join(f"  {escape_unprintable(str(problem))}" for problem in error.problems)
            raise CommandError(f"Nothing was imported:\n{problems}") from error
        except DatabaseUnavailableError as error:
            raise CommandError(escape_unprintable(str(error))) from error
        self._exit(prepared, outcomes, detailed=options["detailed_exitcode"])

    def _exit(self, prepared: Import, outcomes: Sequence[SyncResult], *, detailed: bool) -> None:
        """Says what Consul hasn't got of the import, and exits with the conclusion on that."""
        for outcome in outcomes:
            for problem in sync_problems(outcome):
                self.stderr.write(escape_unprintable(f"Imported, but not synced: {problem}"))
        conclusions = {outcome.conclusion for outcome in outcomes}
        worst = next((conclusion for conclusion in BY_SEVERITY if conclusion in conclusions), Conclusion.VERIFIED)
        if worst not in (Conclusion.VERIFIED, Conclusion.PENDING):
            sys.exit(worst)
        if detailed and prepared.changes:
            sys.exit(Conclusion.PENDING)

    def _print(
        self, prepared: Import, removals: RemovalPreview, in_consul: SyncResult | None, *, as_json: bool
    ) -> None:
        if as_json:
            report: dict[str, Any] = {
                "changes": [change.__dict__ for change in prepared.changes],
                "unchanged": prepared.unchanged,
                "left_out": [note._asdict() for note in prepared.notes],
                "removals": removals.ids,
                "held": removals.held,
            }
            if in_consul is not None:
                report["consul"] = in_consul.plan.as_dict() if in_consul.plan else None
                report["consul_error"] = str(in_consul.error or "")
            self.stdout.write(json.dumps(report, indent=2))
            return
        for note in prepared.notes:
            self.stdout.write(escape_unprintable(f"  ! {note}"))
        for change in prepared.changes:
            self.stdout.write(escape_unprintable(f"  {_SIGNS[change.action]} {change.kind} {change.name}"))
            if change.action == "change":
                for name, before, after in change.fields:
                    text = (
                        f"{name}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(after, ensure_ascii=False)}"
                    )
                    self.stdout.write(f"      {escape_unprintable(text)}")
        source = f" of {prepared.label}" if prepared.notes else ""
        self.stdout.write(f"Import{source}: {prepared.summary}")
        if removals.removals:
            names = "".join(f"\n  - {escape_unprintable(consul_id)}" for consul_id in removals.ids)
            self.stdout.write(f"It takes {len(removals.ids)} out of Consul:{names}")
        if in_consul is not None:
            self._print_plan(in_consul)

    def _print_plan(self, in_consul: SyncResult) -> None:
        self.stdout.write("\nIn Consul:")
        if in_consul.plan is not None:
            Terminal(self.stdout, self.stderr).print_plan(in_consul.plan)
        if in_consul.error is not None:
            self.stderr.write(escape_unprintable(str(in_consul.error)))


def _removal_problem(removals: RemovalPreview, *, expected: int | None) -> str:
    """Returns why nothing may be imported: the brake, or another number of removals than expected."""
    number = len(removals.ids)
    if expected is not None and expected != number:
        return f"Nothing was imported: it would remove {number} from Consul, and {expected} are expected."
    if removals.held and expected is None:
        return (
            f"Nothing was imported. The brake holds it, because {removals.held}. If it is meant, confirm the number: "
            f"--expect-removals {number}."
        )
    return ""


def _apply(prepared: Import, removals: RemovalPreview) -> list[SyncResult]:
    with on_commit.syncing_on_commit() as outcomes, transaction.atomic():
        approve_import_removals(removals)
        prepared.apply()
    return outcomes


def _read(name: str) -> str:
    """Returns the text of a file, of which no more is read than a document may have."""
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DocumentError.at(0, TOO_LARGE)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(escape_unprintable(f"{name} can't be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise CommandError(escape_unprintable(f"{name} is not in UTF-8")) from error

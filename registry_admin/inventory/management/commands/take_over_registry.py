"""`manage.py take_over_registry`: makes declared instances ours that carry the mark of another owner, node or time."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from registry_admin.consul import Owner
from registry_admin.errors import RegistryError
from registry_admin.inventory.management.terminal import Terminal
from registry_admin.inventory.management.user import user_name
from registry_admin.inventory.models import SyncRun
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.ownership import Takeover
from registry_admin.reconcile.plan import Action, Plan


class Command(BaseCommand):
    """Marks declared instances on our agent's node anew. Never removes anything."""

    help = (
        "Takes over instances that are declared here and carry another mark, as after a renamed owner, another "
        "inventory or a restored database. Their fields become those that are declared. Nothing is removed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--from-owner", metavar="NAME", help="What carries this owner's name, such as a former one.")
        which.add_argument("--from-inventory", metavar="UUID", help="What carries the mark of this inventory.")
        which.add_argument("--from-node", metavar="NAME", help="What was marked before this node was renamed.")
        which.add_argument(
            "--restored",
            action="store_true",
            help="What was registered after the backup that this database was restored from; then go on from here.",
        )
        parser.add_argument("--dry-run", action="store_true", help="List what would change and change nothing.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError where there is nothing to take over, and SystemExit where something failed."""
        terminal = Terminal(self.stdout, self.stderr)
        takeover = _takeover(options)
        reconciler = Reconciler(
            trigger=SyncRun.Trigger.TAKEOVER,
            actor=user_name(),
            prune=False,
            takeover=takeover,
            on_plan=terminal.start,
            on_result=terminal.print_result,
        )
        try:
            comparison, preview = reconciler.preview()
            plan = preview.plan
            assert plan is not None  # noqa: S101 - a preview has one
            _check_something_is_there(plan, takeover, comparison.plan.owner, node=comparison.snapshot.node)
            if options["dry_run"]:
                terminal.print_plan(plan)
                terminal.print("", "Dry run: nothing was changed.")
                return
            try:
                result = reconciler.run()
            finally:
                terminal.stop()
        except RegistryError as error:
            raise CommandError(escape_unprintable(str(error))) from error
        if result.error is not None:
            raise CommandError(escape_unprintable(str(result.error)))
        done = len(result.results) - len(result.failures)
        terminal.print("green" if not result.failures else "bold red", f"{done} of {len(result.results)} taken over.")
        for item in plan.with_actions(Action.LEAVE):
            terminal.print_error(escape_unprintable(f"Still in doubt, and left alone: {item.id}: {item.reason}"))
        if result.failures:
            sys.exit(1)


def _takeover(options: dict[str, Any]) -> Takeover:
    inventory = options["from_inventory"] or ""
    try:
        inventory = UUID(inventory).hex if inventory else ""
    except ValueError:
        raise CommandError(f"--from-inventory: {escape_unprintable(inventory)} is no UUID.") from None
    return Takeover(
        owner_name=options["from_owner"] or "",
        inventory=inventory,
        node=options["from_node"] or "",
        restored=options["restored"],
    )


def _check_something_is_there(plan: Plan, takeover: Takeover, owner: Owner, *, node: str) -> None:
    if plan.changes or (takeover.restored and owner.is_behind):
        return
    if takeover.restored:
        raise CommandError("Consul knows nothing newer than this database: there is nothing to take over.")
    raise CommandError(
        escape_unprintable(
            f"No declared instance on node {node} carries such a mark: there is nothing to take over. "
            "Only what is declared here is taken over, through the agent of the node where it is registered."
        )
    )

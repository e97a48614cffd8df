"""`manage.py unlock_logins`: forgets failed logins, so that a locked person can log in at once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.access import login_limits
from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import AuditEvent


class Command(BaseCommand):
    """Unlocks a name, an address, or everything."""

    help = "Forgets failed logins, so that whoever is locked out can log in at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("--name", default="", help="Only this name; all names unless given.")
        parser.add_argument("--address", default="", help="Only this address; all addresses unless given.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError where the database can't be used."""
        try:
            with database_errors():
                forgotten = login_limits.unlock(name=options["name"], address=options["address"])
        except DatabaseUnavailableError as error:
            raise CommandError(str(error)) from error
        record_act(AuditEvent.Action.LOGINS_UNLOCKED, target=options["name"] or options["address"] or "all")
        self.stdout.write(f"forgot {forgotten} count(s) of failed logins")

"""`manage.py seed_inventory`: declares services from the command line, for a first start and for scripts."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import Instance, Service
from registry_admin.printable import escape_unprintable


class Command(BaseCommand):
    """Declares services; services that are declared already stay unchanged."""

    help = "Declares services, as in: seed_inventory api=10.0.0.1:8000,10.0.0.2:8000 db=tcp://10.0.0.3:5432"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the arguments."""
        parser.add_argument(
            "services", nargs="+", metavar="NAME=[tcp://]ADDRESS:PORT[,…]", help="A service and its instances."
        )
        parser.add_argument("--if-empty", action="store_true", help="Do nothing where anything is declared already.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Declares all services or none. Raises CommandError that names the argument."""
        try:
            with database_errors(), transaction.atomic():
                if options["if_empty"] and Service.objects.exists():
                    self.stderr.write("The inventory isn't empty: nothing was declared.")
                    return
                for text in options["services"]:
                    self._declare_or_fail(text)
        except DatabaseUnavailableError as error:
            raise CommandError(escape_unprintable(str(error))) from error

    def _declare_or_fail(self, text: str) -> None:
        try:
            self._declare(text)
        except (ValidationError, ValueError) as error:
            reasons = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
            raise CommandError(escape_unprintable(f"{text}: {reasons}")) from error

    def _declare(self, text: str) -> None:
        name, equals, addresses = text.partition("=")
        if not equals or not addresses:
            raise ValueError("give NAME=ADDRESS:PORT")
        is_tcp = addresses.startswith("tcp://")
        if Service.objects.filter(name__iexact=name).exists():
            self.stderr.write(f"{escape_unprintable(name)} is declared already: left as it is.")
            return
        service = Service.objects.create(name=name, check_kind=Service.Check.TCP if is_tcp else Service.Check.HTTP)
        for address in addresses.split(","):
            parts = urlsplit(address if "://" in address else f"//{address}")
            if "@" in parts.netloc or parts.path or parts.query or parts.fragment:
                raise ValueError("give NAME=ADDRESS:PORT")
            instance = Instance(service=service, address=parts.hostname or "", port=parts.port or 0)
            instance.full_clean()
            instance.save()
        self.stdout.write(f"declared {name} with {service.instances.count()} instance(s)")

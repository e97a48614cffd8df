"""`manage.py seed_inventory`: declares services from the command line, for a first start and for scripts."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile.rendering import visible


class Command(BaseCommand):
    """Declares what isn't declared yet; what is there already stays as it is."""

    help = "Declares services, as in: seed_inventory api=10.0.0.1:8000,10.0.0.2:8000 db=tcp://10.0.0.3:5432"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Services with their instances."""
        parser.add_argument(
            "services", nargs="+", metavar="NAME=[tcp://]ADDRESS:PORT[,…]", help="A service and its instances."
        )
        parser.add_argument("--if-empty", action="store_true", help="Do nothing where anything is declared already.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """All or nothing; raises CommandError that names the argument."""
        try:
            with database_errors(), transaction.atomic():
                if options["if_empty"] and Service.objects.exists():
                    self.stderr.write("The inventory isn't empty: nothing was declared.")
                    return
                for text in options["services"]:
                    self._declare_or_complain(text)
        except StoreUnavailableError as error:
            raise CommandError(visible(str(error))) from error

    def _declare_or_complain(self, text: str) -> None:
        try:
            self._declare(text)
        except (ValidationError, ValueError) as error:
            reasons = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
            raise CommandError(visible(f"{text}: {reasons}")) from error

    def _declare(self, text: str) -> None:
        name, equals, places = text.partition("=")
        if not equals or not places:
            raise ValueError("give NAME=ADDRESS:PORT")
        is_tcp = places.startswith("tcp://")
        if Service.objects.filter(name__iexact=name).exists():
            self.stderr.write(f"{visible(name)} is declared already: left as it is.")
            return
        service = Service.objects.create(name=name, check_kind=Service.Check.TCP if is_tcp else Service.Check.HTTP)
        for place in places.split(","):
            parts = urlsplit(place if "://" in place else f"//{place}")
            if "@" in parts.netloc or parts.path or parts.query or parts.fragment:
                raise ValueError("give NAME=ADDRESS:PORT")
            instance = Instance(service=service, address=parts.hostname or "", port=parts.port or 0)
            instance.full_clean()
            instance.save()
        self.stdout.write(f"declared {name} with {service.instances.count()} instance(s)")

"""`manage.py export_registry`: the declarations as a document, to keep, to review, or to import elsewhere."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory.exchange import export_document
from registry_admin.inventory.exchange.exporting import FORMATS
from registry_admin.inventory.models import Service
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile.rendering import visible


class Command(BaseCommand):
    """Everything that people declare; what syncing notes beside it isn't part of it."""

    help = "Writes the declared services and instances as YAML or JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which, how, and where to."""
        parser.add_argument("--format", choices=FORMATS, default="yaml")
        parser.add_argument("--service", action="append", metavar="NAME", help="Only this one; may be given often.")
        parser.add_argument("--output", metavar="FILE", help="Standard output unless given.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for an unknown service, a file that can't be written, and where the database is away."""
        try:
            with database_errors():
                text = self._export(options["service"], fmt=options["format"])
        except StoreUnavailableError as error:
            raise CommandError(visible(str(error))) from error
        if options["output"] is None:
            self.stdout.write(text, ending="")
            return
        try:
            Path(options["output"]).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']} can't be written: {error.strerror}") from error

    def _export(self, names: list[str] | None, *, fmt: str) -> str:
        services = list(Service.objects.all())
        if names:
            wanted = {name.lower() for name in names}
            if missing := wanted - {service.name.lower() for service in services}:
                raise CommandError(visible(f"Not declared: {', '.join(sorted(missing))}"))
            services = [service for service in services if service.name.lower() in wanted]
        return export_document(services, fmt=fmt)

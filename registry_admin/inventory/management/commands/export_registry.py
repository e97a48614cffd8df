"""`manage.py export_registry`: writes the declarations as a document, for backup, review or import elsewhere."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.exchange import export_document
from registry_admin.inventory.exchange.formats import DEFAULT_FORMAT, LABELS, OWN_FORMATS
from registry_admin.inventory.models import Service
from registry_admin.printable import escape_unprintable


class Command(BaseCommand):
    """Exports what people declare, without sync state."""

    help = f"Writes the declared services and instances as {LABELS}."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("--format", choices=OWN_FORMATS, default=DEFAULT_FORMAT)
        parser.add_argument("--service", action="append", metavar="NAME", help="Only this one; may be given often.")
        parser.add_argument(
            "--with-secrets",
            action="store_true",
            help="With the values of headers, so that it can be imported elsewhere too.",
        )
        parser.add_argument("--output", metavar="FILE", help="Standard output unless given.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for an unknown service, an unwritable file, or an unavailable database."""
        try:
            with database_errors():
                text = self._export(options["service"], fmt=options["format"], with_secrets=options["with_secrets"])
        except DatabaseUnavailableError as error:
            raise CommandError(escape_unprintable(str(error))) from error
        if options["output"] is None:
            self.stdout.write(text, ending="")
            return
        try:
            Path(options["output"]).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']} can't be written: {error.strerror}") from error

    def _export(self, names: list[str] | None, *, fmt: str, with_secrets: bool) -> str:
        services = list(Service.objects.all())
        if names:
            selected = {name.lower() for name in names}
            if missing := selected - {service.name.lower() for service in services}:
                raise CommandError(escape_unprintable(f"Not declared: {', '.join(sorted(missing))}"))
            services = [service for service in services if service.name.lower() in selected]
        return export_document(services, fmt=fmt, with_secrets=with_secrets)

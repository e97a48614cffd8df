"""`manage.py module_token`: makes the token that a module reports its calls with, lists tokens, and revokes them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry_admin.callgraph.models import ModuleToken
from registry_admin.callgraph.tokens import make_token, revoke_token
from registry_admin.errors import DatabaseUnavailableError, InvalidValueError
from registry_admin.inventory.database import database_errors


class Command(BaseCommand):
    """Prints a new token on stdout, once."""

    help = "Makes, lists and revokes the tokens that modules report their calls with."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the subcommands."""
        commands = parser.add_subparsers(dest="command", required=True)
        commands.add_parser("make", help="Prints a new token; it is shown only now.").add_argument("module")
        commands.add_parser("revoke", help="Ends a token.").add_argument("key", help="As `list` shows it.")
        commands.add_parser("list", help="Shows the tokens that there are, without their secrets.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for an invalid name, an unknown key, or an unavailable database."""
        try:
            with database_errors():
                getattr(self, f"_{options['command']}")(options)
        except InvalidValueError as error:
            raise CommandError(f"{error.field}: {error.reason}") from error
        except DatabaseUnavailableError as error:
            raise CommandError(str(error)) from error

    def _make(self, options: dict[str, Any]) -> None:
        row, token = make_token(options["module"])
        self.stdout.write(token)
        self.stderr.write(f"The token of {row.module}. It is shown only now.")

    def _revoke(self, options: dict[str, Any]) -> None:
        self.stderr.write(f"Revoked: {revoke_token(options['key'])}")

    def _list(self, _options: dict[str, Any]) -> None:
        for row in ModuleToken.objects.all():
            state = f"revoked {row.revoked_at:%Y-%m-%d}" if row.revoked_at else "in use"
            used = f"last report {row.used_at:%Y-%m-%d %H:%M} UTC" if row.used_at else "no report yet"
            self.stdout.write(f"{row.key} {row.module or '(REGISTRY_REPORT_TOKEN)'}: {state}, {used}")

"""`manage.py api_token`: makes the token that a pipeline reads the API with, lists tokens, and revokes them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from registry_admin.api.models import ApiToken
from registry_admin.api.tokens import make_token, revoke_token
from registry_admin.errors import DatabaseUnavailableError, InvalidValueError
from registry_admin.inventory.database import database_errors

DAYS = 365


class Command(BaseCommand):
    """Prints a new token on stdout, once."""

    help = "Makes, lists and revokes the tokens that pipelines and scripts read the API with."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the subcommands."""
        commands = parser.add_subparsers(dest="command", required=True)
        make = commands.add_parser("make", help="Prints a new token; it is shown only now.")
        make.add_argument("name", help="What it is for.")
        make.add_argument("--days", type=int, default=DAYS, help="After so many days it ends (default: %(default)s).")
        commands.add_parser("revoke", help="Ends a token.").add_argument("key", help="As `list` shows it.")
        commands.add_parser("list", help="Shows the tokens that there are, without their secrets.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError for an invalid value, an unknown key, or an unavailable database."""
        try:
            with database_errors():
                getattr(self, f"_{options['command']}")(options)
        except InvalidValueError as error:
            raise CommandError(f"{error.field}: {error.reason}") from error
        except DatabaseUnavailableError as error:
            raise CommandError(str(error)) from error

    def _make(self, options: dict[str, Any]) -> None:
        row, token = make_token(options["name"], days=options["days"], now=timezone.now())
        self.stdout.write(token)
        self.stderr.write(f"The token of {row.name}, until {row.expires_at:%Y-%m-%d}. It is shown only now.")

    def _revoke(self, options: dict[str, Any]) -> None:
        self.stderr.write(f"Revoked: {revoke_token(options['key'], now=timezone.now())}")

    def _list(self, _options: dict[str, Any]) -> None:
        now = timezone.now()
        for row in ApiToken.objects.all():
            used = f"last used {row.used_at:%Y-%m-%d %H:%M} UTC from {row.used_from}" if row.used_at else "not used yet"
            self.stdout.write(f"{row.key} {row.name}: {_state(row, now)}, {used}")


def _state(row: ApiToken, now: Any) -> str:
    if row.revoked_at:
        return f"revoked {row.revoked_at:%Y-%m-%d}"
    return f"{'ended' if row.expires_at <= now else 'in use until'} {row.expires_at:%Y-%m-%d}"

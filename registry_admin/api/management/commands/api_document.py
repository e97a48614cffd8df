"""`manage.py api_document`: prints the OpenAPI document of the API, as docs/reference/openapi.json has it."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand

from registry_admin.api.urls import document


class Command(BaseCommand):
    """Prints the document on stdout."""

    help = "Prints the OpenAPI document of the API."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Needs no database and no Consul."""
        self.stdout.write(json.dumps(document(), indent=2))

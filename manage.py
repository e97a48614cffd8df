#!/usr/bin/env python
"""Django's command line for Registry Admin."""

import os
import sys


def main() -> None:
    """Runs a management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    try:
        from django.core.management import execute_from_command_line  # noqa: PLC0415 - so that the hint below is shown
    except ImportError:
        sys.exit("Django is not installed here. Use scripts/run, or: pip install -r requirements.txt")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()

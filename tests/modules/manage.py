"""`manage.py` of the Django module, for `runserver`."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.modules.django_settings"
    execute_from_command_line(sys.argv)

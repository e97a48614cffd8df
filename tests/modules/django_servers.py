"""The Django module as WSGI and ASGI application."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.modules.django_settings"
application = get_wsgi_application()
asgi = get_asgi_application()

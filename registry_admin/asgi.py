"""The ASGI application, for servers that speak ASGI."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")

from registry_admin.inventory.system_checks import require_secret_key

application = get_asgi_application()
require_secret_key()

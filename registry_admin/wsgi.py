"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")

from registry_admin.inventory.system_checks import require_secret_key

application = get_wsgi_application()
require_secret_key()

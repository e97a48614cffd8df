"""Start of the self-registration, when Django has loaded its apps."""

from __future__ import annotations

import logging
import os
import sys

from django.conf import settings

from registry_admin.autoregister.conf import conf
from registry_admin.autoregister.serving import is_serving
from registry_admin.discovery import own_instances
from registry_admin.discovery.registration.registration import Registration
from registry_admin.errors import ConfigurationError

logger = logging.getLogger(__name__)

_MIDDLEWARE = "registry_admin.autoregister.middleware.propagate_context"


def register_if_serving() -> Registration | None:
    """Starts the registration in the background, or returns None if this process doesn't serve. Never raises."""
    if not is_serving(sys.argv, os.environ):
        return None
    if _MIDDLEWARE in settings.MIDDLEWARE:  # which Django loads later
        own_instances.add_middleware()
    try:
        return Registration(conf.service_name, **conf.identity_options).start()
    except ConfigurationError as error:
        logger.error("This process does not register itself: %s", error)  # noqa: TRY400 - no traceback
        return None

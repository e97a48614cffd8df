"""Begins this process's registration, if it serves."""

from __future__ import annotations

import logging
import os
import sys

from registry_admin.autoregister.conf import conf
from registry_admin.autoregister.serving import serves
from registry_admin.discovery.registration import Registration
from registry_admin.errors import ConfigurationError

logger = logging.getLogger(__name__)


def register_if_serving() -> Registration | None:
    """Starts the registration in the background; never raises and never waits. None where there is none."""
    if not serves(sys.argv, os.environ):
        return None
    try:
        return Registration(conf.name, **conf.options).start()
    except ConfigurationError as error:
        logger.error("This process does not register itself: %s", error)  # noqa: TRY400 - no traceback
        return None

"""A Celery worker: `celery -A examples.celery_module worker`.

It doesn't listen, so it needs no port and reports to Consul by itself (a TTL check).
"""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import worker_ready, worker_shutdown

from registry_admin.consul import CheckKind, CheckSpec
from registry_admin.discovery import Registration, call_service

app = Celery("celery_module", broker=os.environ.get("CELERY_BROKER_URL", "memory://"))
app.conf.result_backend = os.environ.get("CELERY_RESULT_BACKEND", "cache+memory://")
if folder := os.environ.get("CELERY_BROKER_FOLDER"):  # a broker that needs no server
    folders = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = dict.fromkeys(folders, folder)
registration = Registration("celery-module", check=CheckSpec(kind=CheckKind.TTL))


@worker_ready.connect
def register(**_signal: object) -> None:
    """Registers the worker once it takes tasks."""
    registration.start()


@worker_shutdown.connect
def deregister(**_signal: object) -> None:
    """Deregisters it when it stops."""
    registration.stop()


@app.task
def value(symbol: str) -> float:
    """Returns the value of ten shares."""
    response = call_service("quotes", f"/quotes/{symbol}", timeout=2)
    response.raise_for_status()
    return 10 * float(response.json()["price"])

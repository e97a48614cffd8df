"""A Celery worker that registers when it is ready; its broker is a folder, CELERY_FOLDER."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from registry_admin.consul import CheckKind, CheckSpec
from registry_admin.discovery import Registration

FOLDER = Path(os.environ["CELERY_FOLDER"])
app = Celery(
    broker="filesystem://",
    broker_transport_options=dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(FOLDER)),
    worker_hijack_root_logger=False,
)


@app.task
def slow() -> None:
    """Lasts until the test makes the file `may-finish`."""
    (FOLDER / "began").touch()
    while not (FOLDER / "may-finish").exists():
        time.sleep(0.01)
    (FOLDER / "finished").touch()


@worker_ready.connect
def register(**_: Any) -> None:
    Registration(check=CheckSpec(kind=CheckKind.TTL)).start()
